"""A task without a test split gets one, carved out of val."""

from dataclasses import replace
from typing import Any

import torch

from trimtab.errors import TaskError
from trimtab.tasks.rows import count, take
from trimtab.tasks.task import Task


def split_test(task: Task, seed: int = 0) -> tuple[Task, str]:
    """The task with a `test` split, and a note for the report ("" when it already had one).

    The rows of val are dealt alternately, in a seeded random order, to val and test.
    Raises: TaskError when val has fewer than two rows.
    """
    if task.test is not None:
        return task, ""
    generator = torch.Generator().manual_seed(seed)
    halves: tuple[list[Any], list[Any]] = ([], [])
    dealt = 0
    for inputs, target in task.val:
        order = torch.randperm(count(inputs), generator=generator)
        for side, batches in enumerate(halves):
            rows = order[(dealt + side) % 2 :: 2].sort().values
            if len(rows):
                batches.append((take(inputs, rows), take(target, rows)))
        dealt += len(order)
    val, test = halves
    if not test:
        raise TaskError(f"task {task.name!r}: val has {dealt} rows, too few to carve a test split out; give test=…")
    note = f"no test split was given: {dealt // 2} of the {dealt} rows of val were set aside as test"
    return replace(task, val=val, test=test), note
