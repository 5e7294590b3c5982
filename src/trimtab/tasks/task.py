"""The Task: a trained network, its data, its loss and its metric."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from trimtab.errors import TaskError
from trimtab.tasks.switches import evaluating as evaluating

Inputs = Tensor | tuple[Tensor, ...] | list[Tensor] | dict[str, Tensor]
Loader = Iterable[tuple[Inputs, Any]]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What the user brings.

    `train`, `val` and `test` are any re-iterable of `(inputs, target)`; inputs are a tensor, a tuple (positional) or a
    dict (keywords) of tensors whose dimension 0 is the batch. `test` may be None: then a part of `val` is set aside.
    `loss(outputs, target)` is a scalar tensor. `metric` is a torchmetrics metric or `(outputs, target) -> float`
    over any number of rows (a mean over rows), higher is better unless the metric says otherwise.
    `example` defaults to the inputs of the first training batch.
    """

    model: nn.Module
    train: Loader
    val: Loader
    test: Loader | None
    loss: Callable[[Any, Any], Tensor]
    metric: Any
    example: Inputs | None = None
    name: str = "task"

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise TaskError(f"task {self.name!r}: model must be a torch.nn.Module, got {type(self.model).__name__}")
        for split in ("train", "val", "test"):
            loader = getattr(self, split)
            if loader is None and split == "test":
                continue
            if not hasattr(loader, "__iter__") or hasattr(loader, "__next__"):
                raise TaskError(
                    f"task {self.name!r}: {split} must be iterable again and again (a DataLoader, a list), "
                    f"got {type(loader).__name__}"
                )
        for part in ("loss", "metric"):
            if not callable(getattr(self, part)):
                raise TaskError(
                    f"task {self.name!r}: {part} must be callable, got {type(getattr(self, part)).__name__}"
                )


def call(forward: Callable[..., Any], inputs: Inputs) -> Any:
    """Call a network on one batch: a dict by keyword, a tuple or list by position, a tensor alone."""
    if isinstance(inputs, dict):
        return forward(**inputs)
    if isinstance(inputs, (tuple, list)):
        return forward(*inputs)
    return forward(inputs)
