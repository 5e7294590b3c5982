"""What a plan has changed, adjusted from data alone: batch-norm statistics and activation ranges. No training."""

from collections.abc import Sequence

import torch

from trimtab.errors import ConfigError
from trimtab.graph import Network
from trimtab.plan import Plan
from trimtab.quant import ActivationFakeQuantize, calibrate
from trimtab.recover.batchnorm import reestimate_batchnorm
from trimtab.recover.reconstruct import repair
from trimtab.tasks.rows import lay_out
from trimtab.tasks.task import Inputs


def settle(
    network: Network,
    batches: Sequence[Inputs],
    *,
    structure_changed: bool = False,
    original: Network | None = None,
    plan: Plan | None = None,
) -> Network:
    """A copy of `network` with calibrated ranges; batch norm is re-estimated first where channels are gone.

    With the `original` and the `plan` of which `apply` made `network`, its layers are also solved for what the original
    computes, as the plan's solvers say (`repair`); without them codes are the nearest to the weights.
    Raises: ConfigError for one of the two alone, TaskError without batches, NumericsError when a value is not finite.
    """
    if (original is None) != (plan is None):
        raise ConfigError("settle: original and plan belong together, got one of them; give both or none")
    if original is not None and plan is not None:
        return repair(network, original, plan, batches)
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
