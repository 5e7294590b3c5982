"""What the checks look at: the original and the compressed network, and what both put out on the test split."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from trimtab.errors import TrimtabError
from trimtab.graph import Network
from trimtab.measure import Evaluation, macs
from trimtab.report.behaviour.labelled import Labelled, labelled
from trimtab.search.profile import first_batches
from trimtab.tasks import Loader, Task
from trimtab.tasks.rows import concatenate, count, take

_FEWEST = 8


class LeftOutError(TrimtabError):
    """A check that this task gives no occasion for, and why."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """`before` and `after` run what is shipped; `original` and `trained` are the same as networks with gradients."""

    task: Task
    before: Callable[..., Any]
    after: Callable[..., Any]
    original: Network
    trained: Network
    evaluated: tuple[Evaluation, Evaluation]
    seed: int

    @cached_property
    def labelled(self) -> tuple[Labelled, Labelled]:
        """Both networks' probabilities of the classes. Raises: LeftOutError where there are no classes."""
        found = tuple(labelled(evaluation.outputs, evaluation.targets) for evaluation in self.evaluated)
        if found[0] is None or found[1] is None:
            raise LeftOutError(
                "the task has no classes: it needs one output a class, and labels that are whole numbers"
            )
        return found[0], found[1]

    def affordable(self, rows: int, multiply_adds: float) -> int:
        """So many rows, or as many as the original can see for so many MACs, at least eight."""
        return max(_FEWEST, min(rows, int(multiply_adds / max(1, macs(self.original)))))


def first(loader: Loader, rows: int) -> list[tuple[Any, Any]]:
    """The first rows of a loader and no more, in batches."""
    batches = list(first_batches(loader, rows))
    inputs, target = batches[-1]
    index = torch.arange(count(inputs) - max(0, sum(count(inputs) for inputs, _ in batches) - rows))
    return [*batches[:-1], (take(inputs, index), take(target, index))]


def inputs_of(batches: list[tuple[Any, Any]]) -> Any:
    """The inputs of all batches as one."""
    return concatenate([inputs for inputs, _ in batches])
