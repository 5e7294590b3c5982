"""BatchNorm scale: a channel that its batch norm makes small matters little."""

from collections.abc import Iterator
from typing import ClassVar

import torch

from trimtab.errors import ConfigError
from trimtab.graph import ChannelGroup, Network, ParamDim
from trimtab.graph.analysis import tensor_names
from trimtab.graph.layers import parameter_of
from trimtab.graph.values import bind
from trimtab.prune.comparable import comparable
from trimtab.prune.contract import Promise
from trimtab.prune.makers import weight_of
from trimtab.prune.scores import Scores
from trimtab.stats import Stats, sum_by_unit

_NORMS = (torch.ops.aten.batch_norm.default, torch.ops.aten.layer_norm.default, torch.ops.aten.group_norm.default)


class BatchnormScale:
    """The mean of |γ| over the norms of a unit's channels: what they scale, they have normalized, so that it can be
    compared between layers. Layer, group and batch norms alike.

    Source: Liu et al. 2017, "Learning Efficient Convolutional Networks through Network Slimming", sec. 3.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    promises: ClassVar[frozenset[Promise]] = frozenset({"equivariant", "useless_unit"})

    def __call__(self, network: Network, group: ChannelGroup, stats: Stats) -> Scores:
        """Raises: ConfigError when no norm has a scale for the group's units."""
        scales = set(_scales(network))
        members = [m for m in group.members if m.role == "norm" and m.parameter in scales]
        if not members:
            raise ConfigError(
                f"{group.name}: 'batchnorm_scale' needs a batch norm over these units, and there is none; "
                "choose another criterion, such as 'magnitude', or leave the group out"
            )
        total = sum(_mean(network, group, member) for member in members)
        return Scores(group=group.name, values=comparable(group, torch.as_tensor(total) / len(members)))


def _mean(network: Network, group: ChannelGroup, member: ParamDim) -> torch.Tensor:
    scale = weight_of(network, member.parameter).abs()
    return sum_by_unit(network, group, member, scale) / sum_by_unit(network, group, member, torch.ones_like(scale))


def _scales(network: Network) -> Iterator[str]:
    """The parameters by which norms multiply."""
    names = tensor_names(network.module)
    for node in network.module.graph.nodes:
        if node.op == "call_function" and node.target in _NORMS:
            parameter = parameter_of(network.module, bind(node)["weight"], names)
            if parameter is not None:
                yield parameter
