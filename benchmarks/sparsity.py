"""Pruning against the literature, criteria against chance, and what the training loop costs.

The whole takes hours on two cores. `--part NAME` runs one part, in a process of its own; every part is kept in
`runs/sparsity` when it is done, and one of the ResNets that was killed goes on where it was. Without `--part` what is
not there yet is run, and everything is written to `--json`. Needs TRIMTAB_DATA and TRIMTAB_WEIGHTS.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from parts import Log, Part, Row, main
from pruning import criteria, lenets, loop, resnets

WORK = Path("runs/sparsity")


def parts(quick: bool) -> dict[str, Part]:
    """What can be run alone, by name; each gives rows."""
    epochs = 1 if quick else None
    work = WORK / "quick" if quick else WORK
    found: dict[str, Part] = {}
    for name in lenets.GOALS:
        for seed in lenets.SEEDS:
            found[f"{name}-{seed}"] = partial(_one, lenets.run, name, seed, epochs=epochs)
    for depth, fewer in resnets.GOALS:
        found[f"ResNet-{depth}-{fewer}"] = partial(_one, resnets.run, depth, fewer, folder=work, epochs=epochs)
    for name in criteria.NETWORKS:
        found[f"criteria-{name}"] = partial(criteria.run, name, quick=quick, show=Log(name))
    found["loop"] = partial(loop.run, steps=6, turns=2) if quick else loop.run
    return found


def _one(run: Callable[..., Row], *arguments: Any, **named: Any) -> list[Row]:
    return [run(*arguments, **named, show=Log(" ".join(map(str, arguments))))]


if __name__ == "__main__":
    main(__doc__ or "", WORK, (lenets, resnets, criteria, loop), parts)
