"""What a plan has changed, adjusted from data alone: batch-norm statistics and activation ranges. No training."""

from collections.abc import Sequence

import torch

from trimtab.graph import Network
from trimtab.quant import ActivationFakeQuantize, calibrate
from trimtab.recover.batchnorm import reestimate_batchnorm
from trimtab.tasks.rows import lay_out
from trimtab.tasks.task import Inputs


def settle(network: Network, batches: Sequence[Inputs], *, structure_changed: bool = False) -> Network:
    """A copy of `network` with calibrated ranges; batch norm is re-estimated first where channels are gone.

    Codes are the nearest to the weights; a plan's solvers take the original, and are `repair`'s.
    Raises: TaskError without batches, NumericsError when a statistic is not finite.
    """
    batches = lay_out(batches, torch.channels_last)
    settled = network.clone()
    settled.eval()
    if structure_changed:
        for module in settled.module.modules():
            if isinstance(module, ActivationFakeQuantize):
                module.observe()
        settled = reestimate_batchnorm(settled, batches)
    calibrate(settled.module, batches)
    return settled
