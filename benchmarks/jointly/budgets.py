"""Budgets drawn at random: each is met by measurement, or refused with a frontier that holds."""

import random
from pathlib import Path
from typing import Any

import trimtab as tt
from harness import Claim
from jointly.trained_tasks import load
from trimtab.plan import Budget, Options

PROTOCOL = """\
Ten budgets drawn at random (seed 0), five on each task (digits, and LeNet-5 on MNIST): a drop from 0 to 2 points, and
one or two of size (2 to 30 %), MACs (5 to 60 %) and latency (30 to 90 %). Each is met as measured on test, or refused;
then the same budget is searched for three times as long (rounds, and 32 trials of refinement), and must not be met, nor
the nearest size within the drop be smaller by more than 5 %.
"""
TASKS = ("digits", "LeNet-5")
A_TASK = 5
SLACK = 5.0
EPOCHS = {"digits": 10, "LeNet-5": 3}


def budgets() -> dict[str, tuple[str, dict[str, str]]]:
    """By the name of a part: the task, and the limits."""
    drawn = random.Random(0)
    found = {}
    for task in TASKS:
        for number in range(A_TASK):
            limits = {"drop": f"{drawn.uniform(0, 0.02):.4f}"}
            for quantity in drawn.sample(["size", "macs", "latency"], drawn.choice([1, 2])):
                low, high = {"size": (2, 30), "macs": (5, 60), "latency": (30, 90)}[quantity]
                limits[quantity] = f"{drawn.uniform(low, high):.1f}%"
            found[f"budget-{task}-{number}"] = task, limits
    return found


def run(name: str, *, folder: Path, epochs: int | None = None) -> list[dict[str, Any]]:
    """One row for one budget."""
    task, limits = budgets()[name]
    result = _compress(task, limits, folder / name, epochs=epochs)
    row: dict[str, Any] = {"budget": name, "limits": str(result.budget), "met": result.met, "why": result.why}
    row |= {"drop, points": 100 * result.drop.value, "size, bytes": result.compressed.file_bytes, "beaten by, %": 0.0}
    if not result.met:
        longer = _compress(task, limits, folder / f"{name}-longer", epochs=epochs, rounds=9)
        row |= {"met by a longer search": longer.met, "beaten by, %": _beaten(result, longer)}
    return [row]


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """Whether every answer holds."""
    of = [row for row in rows if "budget" in row]
    if not of:
        return []
    overturned = sum(bool(row.get("met by a longer search")) for row in of)
    return [
        Claim(
            f"{len(of)} budgets ({sum(row['met'] for row in of)} met): refused, but met by a longer search",
            0,
            overturned,
            "",
        ),
        Claim(
            "frontiers of refused budgets: beaten by a longer search", SLACK, max(r["beaten by, %"] for r in of), "%"
        ),
    ]


def _compress(task: str, limits: dict[str, str], folder: Path, *, epochs: int | None, **changed: Any) -> tt.Result:
    options = Options(epochs=epochs or EPOCHS[task], **changed)
    return tt.compress(load(task, folder.parent), budget=Budget(**limits), run=folder, options=options)


def _beaten(result: tt.Result, longer: tt.Result) -> float:
    """By how much the longer search's smallest file within the drop is smaller, in per cent."""
    limit = result.budget.limit("drop")
    assert limit is not None
    sizes = [
        min((point.costs["size"] for point in found.frontier if limit.allows(point.drop)), default=None)
        for found in (result, longer)
    ]
    if sizes[1] is None:
        return 0.0
    return 100.0 if sizes[0] is None else max(0.0, 100 * (1 - sizes[1] / sizes[0]))
