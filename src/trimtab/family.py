"""A family: one network for each of several budgets, all from one profile."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trimtab.compress import compress
from trimtab.errors import ConfigError
from trimtab.plan import Budget, Result
from trimtab.tasks import Task


def compress_family(
    task: Task,
    *,
    budgets: Sequence[Budget],
    run: str | Path | None = None,
    **others: Any,
) -> Iterator[Result]:
    """`compress` for every budget, each in a folder of its own in `run` (default `runs/<task>`), named by its limits.

    Gives each result as soon as it is there. Baseline, profile and the plans judged without training are found out
    once. `others` are those of `compress`.
    Raises: ConfigError for budgets that limit different quantities, or for the same one twice; and as `compress`.
    """
    quantities = {tuple(sorted(limit.quantity for limit in budget.limits)) for budget in budgets}
    if len(quantities) != 1 or len(set(budgets)) < len(budgets):
        raise ConfigError(
            "family: budgets limit the same quantities, each in another way; give one run to each other one"
        )
    before: Path | None = None
    for budget in budgets:
        folder = Path(run or Path("runs") / task.name) / name_of(budget)
        yield compress(task, budget=budget, run=folder, profiled=before, **others)
        before = folder


def name_of(budget: Budget) -> str:
    """Its limits as the name of a folder."""
    limits = (f"{limit.quantity}-{limit.at_most:g}{'x' if limit.relative else ''}" for limit in budget.limits)
    return "-".join(limits)
