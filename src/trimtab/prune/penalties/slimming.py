"""Slimming: the scales of BatchNorm are drawn to zero, and with a scale goes its channel."""

import torch
from torch import Tensor

from trimtab.errors import ConfigError
from trimtab.graph import Network
from trimtab.graph.analysis import tensor_names
from trimtab.graph.layers import parameter_of
from trimtab.graph.values import bind
from trimtab.prune.penalties.contract import NEGLIGIBLE

_BATCH_NORM = torch.ops.aten.batch_norm.default


class Slimming:
    """Σ|γ| over the BatchNorm scales of channels that may be cut. Negligible: at most a hundredth of the largest γ.

    Source: Liu et al. 2017, "Learning Efficient Convolutional Networks through Network Slimming", eq. 1.
    """

    def __init__(self, network: Network) -> None:
        parameters, names = dict(network.named_parameters()), tensor_names(network.module)
        cut = {member.parameter for group in network.groups for member in group.members}
        norms = [node for node in network.module.graph.nodes if node.target is _BATCH_NORM]
        scales = dict.fromkeys(parameter_of(network.module, bind(node)["weight"], names) for node in norms)
        self._scales = [parameters[name] for name in scales if name is not None and name in cut]
        if not self._scales:
            raise ConfigError(
                "penalty 'slimming' acts on the scales of BatchNorm over channels that may be cut, and the network has "
                "none; choose 'group_lasso'"
            )

    def __call__(self) -> Tensor:
        return torch.cat([scale.flatten() for scale in self._scales]).abs().sum()

    def negligible(self) -> float:
        """The share of all scales."""
        size = torch.cat([scale.detach().flatten() for scale in self._scales]).abs()
        return float((size <= NEGLIGIBLE * size.amax()).double().mean())

    def finish(self) -> None:
        """Nothing was inserted."""
