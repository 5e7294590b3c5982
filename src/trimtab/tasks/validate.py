"""One look at a task before any work is done on it, so that bad input is met here and not an hour later."""

from typing import Any

import torch
from torch import Tensor

from trimtab.errors import NumericsError, TaskError
from trimtab.tasks.rows import count, describe, tensors
from trimtab.tasks.switches import evaluating
from trimtab.tasks.task import Task, call


def validate(task: Task) -> None:
    """Check the weights, and the first batch of every split: its form, its numbers, and the loss on it.

    Raises: TaskError for an empty loader, a batch that is not `(inputs, target)`, a target with another number of rows,
            a loss that fails or is no scalar; NumericsError for NaN or infinity in weights, data or loss.
    """
    for name, weight in task.model.state_dict().items():
        if isinstance(weight, Tensor):
            _finite(weight, f"task {task.name!r}: weight {name}")
    for split in ("train", "val", "test"):
        loader = getattr(task, split)
        if loader is not None:
            inputs, target = _first_batch(loader, f"task {task.name!r}: {split}")
            _check_loss(task, split, inputs, target)


def _first_batch(loader: Any, where: str) -> tuple[Any, Any]:
    try:
        batch = next(iter(loader), None)
    except Exception as error:
        raise TaskError(f"{where} raised {type(error).__name__} on its first batch: {_line(error)}") from error
    if batch is None:
        raise TaskError(f"{where} is empty; give at least one batch (is `drop_last` set with few rows?)")
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise TaskError(f"{where} must give batches (inputs, target), got {describe(batch)}")
    inputs, target = batch
    try:
        rows, target_rows = count(inputs), count(target)
    except TaskError as error:
        raise TaskError(f"{where}: {error}") from error
    if rows == 0:
        raise TaskError(f"{where}: the first batch has no rows, got inputs {describe(inputs)}")
    if target_rows != rows:
        raise TaskError(
            f"{where}: inputs and target must have the same number of rows, "
            f"got inputs {describe(inputs)} and target {describe(target)}"
        )
    for kind, part in (("inputs", inputs), ("target", target)):
        for leaf in tensors(part):
            _finite(leaf, f"{where}: the {kind} of the first batch")
    return inputs, target


def _check_loss(task: Task, split: str, inputs: Any, target: Any) -> None:
    where = f"task {task.name!r}: on the first batch of {split}"
    with torch.no_grad(), evaluating(task.model):
        try:
            outputs = call(task.model, inputs)
        except Exception as error:
            raise TaskError(
                f"{where} the model raised {type(error).__name__} for inputs {describe(inputs)}: {_line(error)}"
            ) from error
        for leaf in tensors(outputs):
            if leaf.isnan().any():
                raise NumericsError(f"{where} the model's outputs hold NaN; check its weights and the data's scale")
        try:
            loss = task.loss(outputs, target)
        except Exception as error:
            raise TaskError(
                f"{where} the loss raised {type(error).__name__} for outputs {describe(outputs)} "
                f"and target {describe(target)}: {_line(error)}"
            ) from error
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise TaskError(f"{where} the loss must be a scalar tensor, got {describe(loss)}; reduce it, say with .mean()")
    if not loss.isfinite().all():
        raise NumericsError(f"{where} the loss is {loss.item()}; check the model's weights and the data")


def _finite(tensor: Tensor, what: str) -> None:
    if tensor.is_floating_point() and not tensor.isfinite().all():
        bad = int((~tensor.isfinite()).sum())
        raise NumericsError(f"{what}: {bad} of {tensor.numel()} values are NaN or infinite; clean them first")


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
