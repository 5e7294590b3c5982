"""Pruning and quantization decided together, against one after the other: layers, networks, budgets.

The whole takes hours on two cores. `--part NAME` runs one part, in a process of its own; every part is kept in
`runs/joint` when it is done, and takes its place among the others in `--json`. Without `--part` what is not there yet
is run, and everything is written to `--json`.
Needs TRIMTAB_DATA and TRIMTAB_WEIGHTS.
"""

from functools import partial
from pathlib import Path

from jointly import budgeted, budgets, latency, layers, levels, orders, search_time, without_training
from parts import Part, main

WORK = Path("runs/joint")


def parts(quick: bool) -> dict[str, Part]:
    """What can be run alone, by name; each gives rows."""
    few = {"images": 128} if quick else {}
    found: dict[str, Part] = {
        f"layers-{name.replace(' ', '')}": partial(layers.run, name, **few) for name in layers.SPARSITIES
    }
    for name in without_training.CASES:
        rows = {"rows": 4, "images": 256} if quick else {}
        found[name.replace(" ", "-").replace("−", "minus-")] = partial(
            without_training.run, name, folder=WORK / "files", **rows
        )
    few_epochs = {"epochs": 1} if quick else {}
    for name in orders.DROPS:
        for order in orders.ORDERS:
            found[f"order-{name}-{order}"] = partial(orders.run, name, order, folder=WORK / "files", **few_epochs)
    for name in levels.SIZES:
        found[f"levels-{name}"] = partial(levels.run, name, folder=WORK / "files", **few_epochs)
    for share in budgeted.BOPS:
        found[f"bops-{share}"] = partial(budgeted.run_bops, share, folder=WORK / "files", **few_epochs)
    for batch in budgeted.LATENCY:
        hurry = {"minutes": 2.0, "seconds": 1.0} if quick else {}
        found[f"latency-budget-{batch}"] = partial(budgeted.run_latency, batch, folder=WORK / "files", **hurry)
    for name in budgets.budgets():
        found[name] = partial(budgets.run, name, folder=WORK / "files", **few_epochs)
    found |= {f"search-{name}": partial(search_time.run, name) for name in search_time.GOALS}
    for case in latency.CASES:
        short = {"networks": (4, 2), "seconds": 0.1} if quick else {}
        found[latency.name_of(*case)] = partial(latency.run, *case, **short)
    return found


if __name__ == "__main__":
    main(
        __doc__ or "", WORK, (layers, without_training, orders, levels, latency, budgeted, search_time, budgets), parts
    )
