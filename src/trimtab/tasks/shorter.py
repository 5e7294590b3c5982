"""A task with less training."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from trimtab.tasks.rows import batches_in
from trimtab.tasks.task import Task


class Beginning:
    """The first `batches` of a loader; in everything else, such as its generators, it is that loader."""

    def __init__(self, loader: Any, batches: int) -> None:
        self._loader, self._batches = loader, batches

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self._loader), self._batches)

    def __len__(self) -> int:
        return self._batches

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def shortened(task: Task, steps: int) -> tuple[int, Task]:
    """For about `steps` batches of training: how many epochs, and of which task. Less than an epoch is one of fewer."""
    batches = batches_in(task.train)
    if steps < batches:
        return 1, replace(task, train=Beginning(task.train, steps))
    return round(steps / max(batches, 1)), task
