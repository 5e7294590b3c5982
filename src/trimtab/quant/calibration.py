"""Activation ranges from data: every fake-quantization module observes a few batches in float, then fits its grid."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from trimtab.errors import TaskError
from trimtab.quant.activations import ActivationFakeQuantize
from trimtab.tasks.task import Inputs, call


def calibrate(module: nn.Module, batches: Iterable[Inputs], forward: Callable[..., Any] | None = None) -> None:
    """Fit all activation grids of `module` (in the mode that it is in) to what they see on `batches`, in place.

    One pass, in float: every site has its own estimator of ranges (`quant/ranges`), whose memory is bounded.
    Raises: TaskError without batches; NumericsError that names the activation which is not finite or was never reached.
    No range has changed then.
    """
    sites = [m for m in module.modules() if isinstance(m, ActivationFakeQuantize)]
    try:
        for site in sites:
            site.observe()
        count = 0
        with torch.no_grad():
            for inputs in batches:
                call(forward or module, inputs)
                count += 1
        if not count:
            raise TaskError("calibration: the data has no batches; give at least one")
        ranges = [site.observed() for site in sites]
        for site, seen in zip(sites, ranges, strict=True):
            site.set_range(*seen)
    finally:
        for site in sites:
            site.ignore()
