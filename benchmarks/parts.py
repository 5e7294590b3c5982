"""A benchmark of hours, in parts: each runs in a process of its own if asked to, and is kept when it is done."""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

import harness

Row = dict[str, Any]
Part = Callable[[], Iterable[Row]]


class Module(Protocol):
    """What a benchmark module says of itself."""

    PROTOCOL: str

    @staticmethod
    def claims(rows: list[Row]) -> list[harness.Claim]: ...


class Log:
    """A line every half minute: how far, and how long it still takes."""

    def __init__(self, title: str) -> None:
        self.title, self.begin, self.said, self.first = title, time.monotonic(), time.monotonic(), 0

    def __call__(self, done: int, total: int, text: str) -> None:
        now = time.monotonic()
        if done < self.first or self.first == 0:  # the first call of another stage
            self.begin, self.first = now, done
        if now - self.said > 30 and done > self.first:
            left = (now - self.begin) / (done - self.first) * (total - done)
            print(f"{self.title}: {done}/{total}, {text}, {left / 60:.1f} min left", flush=True)
            self.said = now


def main(description: str, work: Path, modules: Iterable[Module], parts: Callable[[bool], Mapping[str, Part]]) -> None:
    """`--part NAME` runs one part; without it what is not kept in `work` yet is run. `parts` gets `--quick`.

    With both `--part` and `--json` the part's rows take the place of its former ones in the file, the others' stay; a
    file of quick rows and one of full ones do not mix.
    """
    parser = harness.parser(description)
    parser.add_argument("--part", help="run this part only; another name lists them")
    options = parser.parse_args()
    known = parts(options.quick)
    if options.part is not None and options.part not in known:
        parser.error(f"no part {options.part!r}; known: {', '.join(known)}")
    chosen = [options.part] if options.part else list(known)
    folder = work / "quick" if options.quick else work
    found = {name: _remembered(name, folder, known[name]) for name in chosen}
    if options.part and options.json and options.json.exists():
        before = json.loads(options.json.read_text())
        if before["quick"] != options.quick:
            parser.error(f"{options.json} has {'quick' if before['quick'] else 'full'} rows; name another file")
        found = {name: [row for row in before["rows"] if row["part"] == name] for name in known} | found
    rows = [row for name in known for row in found.get(name, [])]
    protocol = "\n".join(module.PROTOCOL for module in modules)
    harness.finish(options, protocol, rows, [claim for module in modules for claim in module.claims(rows)])


def _remembered(name: str, folder: Path, compute: Part) -> list[Row]:
    """The part's rows: read, or computed and kept, with the seconds that it took."""
    path = folder / f"{name}.json"
    if not path.exists():
        begin = time.monotonic()
        rows = list(compute())
        seconds = round(time.monotonic() - begin)
        folder.mkdir(parents=True, exist_ok=True)
        content = [{"part": name, **row, "seconds": seconds, "threads": torch.get_num_threads()} for row in rows]
        path.write_text(json.dumps(content, indent=2) + "\n")
    found: list[Row] = json.loads(path.read_text())
    return found
