"""What every benchmark shares: the environment, the claims, the table, and the JSON file."""

import argparse
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table

MOST_COLUMNS = 8
"""Rows are printed side by side; more than these are only written to the file."""


@dataclass(frozen=True)
class Claim:
    """A goal and what was measured. `at_least`: the measured value must not be below the goal; else not above."""

    claim: str
    goal: float
    measured: float
    unit: str
    at_least: bool = False

    @property
    def holds(self) -> bool:
        return self.measured >= self.goal if self.at_least else self.measured <= self.goal


def arguments(description: str) -> argparse.Namespace:
    """`--quick` and `--json FILE`."""
    return parser(description).parse_args()


def parser(description: str) -> argparse.ArgumentParser:
    """The parser of `arguments`, for a benchmark that has more to ask."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a short run; its numbers are not for quoting")
    parser.add_argument("--json", type=Path, help="write rows and claims to this file")
    return parser


def environment() -> dict[str, Any]:
    """Processor, cores and versions."""
    return {
        "processor": _processor(),
        "cores": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "python": platform.python_version(),
        "torch_threads": torch.get_num_threads(),
        **{name: version(name) for name in ("trimtab", "torch", "onnxruntime", "onnx")},
    }


def finish(options: argparse.Namespace, protocol: str, rows: Sequence[dict[str, Any]], claims: Sequence[Claim]) -> None:
    """Print rows and claims; write them to `--json`; exit with 1 when a claim does not hold."""
    console = Console(width=160)
    names = list(dict.fromkeys(name for row in rows for name in row))
    if len(rows) <= MOST_COLUMNS:
        console.print(
            _table("rows", ["", *("" for _ in rows)], [[name, *(row.get(name) for row in rows)] for name in names])
        )
    else:
        console.print(f"{len(rows)} rows" + (f" in {options.json}" if options.json else ""))
    judged = [{**asdict(claim), "holds": claim.holds} for claim in claims]
    columns = ["claim", "goal", "measured", "unit", "holds"]
    console.print(_table("claims", columns, [[claim[c] for c in columns] for claim in judged]))
    if options.json is not None:
        content = {"environment": environment(), "protocol": protocol, "quick": options.quick}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({**content, "rows": list(rows), "claims": judged}, indent=2) + "\n")
    raise SystemExit(0 if all(claim.holds for claim in claims) else 1)


def table(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    """A line a row."""
    return _table(title, list(rows[0]), [list(row.values()) for row in rows])


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(f"{value:.6g}" if isinstance(value, float) else str(value) for value in row))
    return table


def _processor() -> str:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return names[0] if names else platform.processor()
