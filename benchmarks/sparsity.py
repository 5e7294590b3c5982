"""Pruning against the literature, criteria against chance, and what the training loop costs.

The whole takes hours on two cores. `--part NAME` runs one part, in a process of its own; every part is kept in
`runs/sparsity` when it is done, and one of the ResNets that was killed goes on where it was. Without `--part` what is
not there yet is run, and everything is written to `--json`. Needs TRIMTAB_DATA and TRIMTAB_WEIGHTS.
"""

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import harness
from pruning import criteria, lenets, loop, resnets

Row = dict[str, Any]
MODULES = (lenets, resnets, criteria, loop)
WORK = Path("runs/sparsity")


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


def parts(quick: bool) -> dict[str, Callable[[], list[Row]]]:
    """What can be run alone, by name; each gives rows."""
    epochs = 1 if quick else None
    work = WORK / "quick" if quick else WORK
    found: dict[str, Callable[[], list[Row]]] = {}
    for name in lenets.GOALS:
        for seed in lenets.SEEDS:
            found[f"{name}-{seed}"] = partial(_one, lenets.run, name, seed, epochs=epochs)
    for depth, fewer in resnets.GOALS:
        found[f"ResNet-{depth}-{fewer}"] = partial(_one, resnets.run, depth, fewer, folder=work, epochs=epochs)
    for name in criteria.NETWORKS:
        found[f"criteria-{name}"] = partial(_several, criteria.run, name, quick=quick)
    found["loop"] = partial(loop.run, steps=6, turns=2) if quick else loop.run
    return found


def _one(run: Callable[..., Row], *arguments: Any, **named: Any) -> list[Row]:
    return [run(*arguments, **named, show=Log(" ".join(map(str, arguments))))]


def _several(run: Callable[..., Any], *arguments: Any, **named: Any) -> list[Row]:
    return list(run(*arguments, **named, show=Log(" ".join(map(str, arguments)))))


def remembered(name: str, quick: bool, compute: Callable[[], list[Row]]) -> list[Row]:
    """The part's rows: read, or computed and kept, with the seconds that it took."""
    path = (WORK / "quick" if quick else WORK) / f"{name}.json"
    if not path.exists():
        begin = time.monotonic()
        rows = compute()
        seconds = round(time.monotonic() - begin)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = [{"part": name, **row, "seconds": seconds, "threads": torch.get_num_threads()} for row in rows]
        path.write_text(json.dumps(content, indent=2) + "\n")
    found: list[Row] = json.loads(path.read_text())
    return found


def main() -> None:
    """All parts, or one."""
    parser = harness.parser(__doc__ or "")
    parser.add_argument("--part", help="run this part only; another name lists them")
    options = parser.parse_args()
    known = parts(options.quick)
    if options.part is not None and options.part not in known:
        parser.error(f"no part {options.part!r}; known: {', '.join(known)}")
    chosen = [options.part] if options.part else list(known)
    rows = [row for name in chosen for row in remembered(name, options.quick, known[name])]
    protocol = "\n".join(module.PROTOCOL for module in MODULES)
    harness.finish(options, protocol, rows, [claim for module in MODULES for claim in module.claims(rows)])


if __name__ == "__main__":
    main()
