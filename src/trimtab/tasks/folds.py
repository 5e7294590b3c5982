"""K-fold cross-validation: where data is short, every row has its turn to be looked at."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader

from trimtab.errors import TaskError
from trimtab.tasks.rows import concatenate, count, take, tensors
from trimtab.tasks.task import Task

_MOST_BYTES = 2**30
"""All rows are kept in memory."""


def folds(task: Task, k: int, seed: int = 0) -> list[Task]:
    """`k` tasks: `val` is one fold of the rows of train and val together, `train` is the others, in another order each
    epoch, in batches as large as the task's own. Rows are dealt at random, from the seed; test stays as it is.

    Training rows are as the training loader gives them the first time: what it draws anew each
    epoch, it does not here.
    Raises: TaskError where there are fewer rows than folds, or they take more than 1 GiB.
    """
    batches: list[Any] = []
    size = taken = 0
    for inputs, target in (batch for loader in (task.train, task.val) for batch in loader):
        size = max(size, count(inputs))
        taken += sum(leaf.numel() * leaf.element_size() for leaf in tensors((inputs, target)))
        if taken > _MOST_BYTES:
            raise TaskError(
                f"task {task.name!r}: train and val take more than {_MOST_BYTES >> 30} GiB; folds are for short data, "
                "leave them out"
            )
        batches.append((inputs, target))
    rows = concatenate(batches)
    total = count(rows)
    if total < k:
        raise TaskError(f"task {task.name!r}: train and val have {total} rows, too few for {k} folds; ask for fewer")
    dealt = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    parts = [dealt[number::k].sort().values for number in range(k)]
    return [
        replace(
            task,
            train=_loader(rows, torch.cat([part for part in parts if part is not held]), size, shuffle=True),
            val=_loader(rows, held, size, shuffle=False),
        )
        for held in parts
    ]


def _loader(rows: Any, index: torch.Tensor, size: int, *, shuffle: bool) -> DataLoader[Any]:
    return DataLoader(
        index.tolist(),  # type: ignore[arg-type]  # any sequence will do
        batch_size=size,
        shuffle=shuffle,
        drop_last=shuffle and len(index) > size,
        generator=torch.Generator(),
        collate_fn=partial(_rows_at, rows),
    )


def _rows_at(rows: Any, index: list[int]) -> Any:
    return take(rows, torch.tensor(index))
