"""Activation ranges from data: every fake-quantization module observes a few batches in float, then fits its grid."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from trimtab.errors import TaskError
from trimtab.quant.activations import ActivationFakeQuantize
from trimtab.tasks.task import Inputs, call


def calibrate(module: nn.Module, batches: Iterable[Inputs], forward: Callable[..., Any] | None = None) -> None:
    """Fit all activation grids of `module` (in the mode that it is in) to the min–max range over `batches`, in place.

    Raises: TaskError without batches; NumericsError when a range is not finite.
    """
    sites = [m for m in module.modules() if isinstance(m, ActivationFakeQuantize)]
    for site in sites:
        site.observe()
    seen = 0
    with torch.no_grad():
        for inputs in batches:
            call(forward or module, inputs)
            seen += 1
    if not seen:
        raise TaskError("calibration: the data has no batches; give at least one")
    for site in sites:
        site.fit()
