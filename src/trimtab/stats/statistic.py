"""The contract of a statistic: it is shown every batch of the pass once, and then says what it found."""

from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from trimtab.errors import ConfigError, NumericsError
from trimtab.graph import Network
from trimtab.stats.found import Found
from trimtab.tasks.task import Inputs

Loss = Callable[[Any, Any], Tensor]


class Statistic(Protocol):
    """One file of this folder holds one, and STATISTICS its name.

    `supervised` ones get the task's loss, and targets; others get a loss that refuses to be called. `network` is in
    eval mode and its floating-point parameters require gradients while batches are added; it must be left as it was.
    """

    supervised: ClassVar[bool]

    def __init__(self, network: Network, loss: Loss) -> None: ...
    def add(self, inputs: Inputs, target: Any) -> None:
        """See one batch."""

    def found(self) -> Found:
        """After the last batch."""


def no_loss(outputs: Any, target: Any) -> Tensor:
    """The loss of a run without labels."""
    raise ConfigError("statistics: the run has no loss; give one, or choose a criterion that needs none")


def checked(value: Tensor) -> Tensor:
    """The loss itself. Raises: NumericsError when it is not a finite scalar."""
    if value.numel() != 1:
        raise NumericsError(f"statistics: the loss must be one number, got the shape {list(value.shape)}; average it")
    if not torch.isfinite(value).all():
        raise NumericsError(f"statistics: the loss is {value.item()}; check inputs, targets and weights")
    return value


def checked_gradient(name: str, gradient: Tensor) -> Tensor:
    """The gradient itself. Raises: NumericsError when it is not finite."""
    if not torch.isfinite(gradient).all():
        raise NumericsError(f"statistics: the gradient of {name} is not finite; check the loss")
    return gradient
