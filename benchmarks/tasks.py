"""Every example, compressed: from its trained network to the artifact, with the drop and the proof.

The whole takes hours on two cores; `--quick` under ninety minutes. `--part NAME` runs one example, in a process of its
own; every part is kept in `runs/tasks` when it is done, and takes its place among the others in `--json`. Without
`--part` what is not there yet is run, and everything is written to `--json`.
Needs TRIMTAB_DATA and TRIMTAB_WEIGHTS.
"""

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import trimtab as tt
from harness import Claim
from parts import Part, main
from trimtab.measure import evaluate
from trimtab.plan import Budget, Options
from trimtab.tasks import load_task

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = tuple(sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem != "common"))
WORK = Path("runs/tasks")
PROTOCOL = """\
Every example under the same budget: a drop of at most 1 % of its float network's metric on val, and a file of at most
12 % of the float file's bytes. Baselines are trained here (the ResNets are pretrained), recovery as by default (quick:
two minutes a run). ONNX Runtime, one thread, batch 1, seed 0; metric, drop and interval on test, looked at once.
Latencies are medians in turn with the float network.
"""
SIZE, SHARE = "12%", 0.01
ENOUGH, HOUR_AND_A_HALF = 13, 90.0


class _Itself:
    """What `parts.main` asks a module for."""

    PROTOCOL = PROTOCOL

    @staticmethod
    def claims(rows: list[dict[str, Any]]) -> list[Claim]:
        """How many meet the budget, whether all are proved, and how long a quick run takes."""
        done = [row for row in rows if "task" in row]
        met = sum(row["met"] for row in done)
        found = [
            Claim(f"of {len(done)}: budget met", ENOUGH, met, "examples", at_least=True),
            Claim("without integer kernels", 0, sum(row["integer kernels"] == 0 for row in done), "examples"),
            Claim(
                "least agreement with the simulation", 98.0, min(r["agreement, %"] for r in done), "%", at_least=True
            ),
        ]
        if all(row["quick"] for row in done):
            found.append(Claim("all of it", HOUR_AND_A_HALF, sum(row["seconds"] for row in done) / 60, "minutes"))
        return found


def run(name: str, *, quick: bool) -> list[dict[str, Any]]:
    """One row: an example before and after."""
    begin = time.monotonic()
    sys.path.insert(0, str(EXAMPLES))
    task = load_task(str(EXAMPLES / f"{name}.py"), {})
    trained = time.monotonic() - begin
    metric = abs(evaluate(task.model, task.val, task.metric).value)
    options = Options(minutes=2.0, rounds=1) if quick else Options(minutes=6.0)
    budget = Budget(drop=SHARE * metric, size=SIZE)
    result = tt.compress(task, budget=budget, run=WORK / ("quick" if quick else "files") / name, options=options)
    before, after = result.baseline, result.compressed
    behaviour = result.behaviour.checks if result.behaviour else ()
    return [
        {
            "task": name,
            "quick": quick,
            "met": result.met,
            "metric before": before.metric,
            "metric after": after.metric,
            "drop": result.drop.value,
            "drop, interval": str(result.drop.ci95),
            "drop at most": SHARE * metric,
            "bytes before": before.file_bytes,
            "bytes after": after.file_bytes,
            "% of the bytes": 100 * (after.file_bytes or 0) / (before.file_bytes or 1),
            "ms before": before.latency_ms,
            "ms after": after.latency_ms,
            "integer kernels": sum(result.proof.integer_ops.values()),
            "fell back": len(result.proof.fallbacks),
            "agreement, %": 100 * result.proof.agreement,
            "behaviour that does not hold": ", ".join(check.name for check in behaviour if not check.holds),
            "why": result.why,
            "baseline, s": trained,
            "compress, s": result.seconds["total"],
        }
    ]


def parts(quick: bool) -> dict[str, Part]:
    """What can be run alone, by name."""
    return {name: partial(run, name, quick=quick) for name in NAMES}


if __name__ == "__main__":
    main(__doc__ or "", WORK, (_Itself,), parts)
