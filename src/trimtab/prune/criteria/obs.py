"""Optimal brain surgery: a unit matters as much as what reads it would lose, were all other units set anew."""

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from trimtab.errors import ConfigError
from trimtab.graph import ChannelGroup, Network, ParamDim
from trimtab.graph.analysis import attribute
from trimtab.graph.values import bind
from trimtab.prune.contract import Promise
from trimtab.prune.makers import weight_of
from trimtab.prune.scores import Scores
from trimtab.solve import leaving
from trimtab.solve.least_squares import damped
from trimtab.stats import Stats

aten = torch.ops.aten

_DAMPING = 1e-4
_WIDEST = 2048
"""Inputs of all readers together, up to which units leave one after the other; beyond, each is priced alone."""


class Obs:
    """Units: the rise of the squared error of the layers that read it when it leaves and their other weights make up
    for it. Units leave greedily, so that of two that say the same only the first is cheap.

    The error is that of each layer's outputs behind its batch norm, summed over outputs and readers, so that units of
    different groups compare. A group read by so many layers that their inputs together are more than 2048 (a residual
    stream) has each unit priced as if it alone left, with errors that add in step, (Σ √Δ)²: they miss the same.
    Source: Hassibi & Stork 1993, "Second order derivatives for network pruning: Optimal Brain Surgeon"; Frantar, Singh
    & Alistarh 2022, "Optimal Brain Compression", section 4, for blocks.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"gram"})
    promises: ClassVar[frozenset[Promise]] = frozenset({"equivariant", "useless_unit"})

    def __call__(self, network: Network, group: ChannelGroup, stats: Stats) -> Scores:
        """Raises: ConfigError when no convolution or linear layer reads the group, or "gram" was not collected."""
        readers = [reader for member in group.members for reader in _readers(network, group, member, stats)]
        if not readers:
            raise ConfigError(
                f"{group.name}: criterion 'obs' sees no convolution or linear layer that reads it; choose 'taylor' or "
                "'magnitude'"
            )
        if sum(reader.columns.numel() for reader in readers) > _WIDEST:
            return Scores(group=group.name, values=torch.stack([_alone(r).sqrt() for r in readers]).sum(0).square())
        columns = torch.cat([reader.columns + at for reader, at in zip(readers, _starts(readers), strict=True)], 1)
        order = columns.flatten()
        weight = torch.block_diag(*(reader.weight for reader in readers))[:, order]
        inverse = torch.block_diag(*(reader.inverse for reader in readers))[order][:, order]
        gone, rise = leaving(weight[None], inverse[None], columns.shape[1])
        values = torch.empty_like(rise[0])
        values[gone[0]] = rise[0].cummax(0).values
        return Scores(group=group.name, values=values)


class _Reader(NamedTuple):
    """A layer (of a convolution in groups, one of them): its weight [m, n] times the gain behind it, or zeros where it
    sees nothing but zeros; the inverse of its inputs' covariance [n, n], and the columns of every unit [width, c].
    """

    weight: Tensor
    inverse: Tensor
    columns: Tensor


def _readers(network: Network, group: ChannelGroup, member: ParamDim, stats: Stats) -> list[_Reader]:
    calls = [layer for layer in network.layers if layer.weight == member.parameter]
    if member.role != "in" or member.dim != 1 or not calls:
        return []
    weight = weight_of(network, member.parameter)
    rows = (weight * _gain(network, calls[0].node, weight)).flatten(1)
    units = network.units(group, member)
    kernel = weight.shape[2:].numel()
    channels = torch.stack([torch.nonzero(units == unit).flatten() for unit in range(group.width)])
    columns = (channels[:, :, None] * kernel + torch.arange(kernel)).flatten(1)
    found = []
    grams = stats.gram("gram", member.parameter)
    for gram, part in zip(grams.split(1), rows.chunk(len(grams)), strict=True):
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped(gram, _DAMPING)[0]))
        found.append(_Reader(part * gram.any(), inverse, columns))
    return found


def _gain(network: Network, name: str, weight: Tensor) -> Tensor:
    """What batch norm right behind a layer multiplies its outputs with; 1 without one. [out, 1, …]"""
    node = next(node for node in network.module.graph.nodes if node.name == name)
    users = list(node.users)
    if len(users) != 1 or users[0].target != aten.batch_norm.default:
        return torch.ones(1, dtype=torch.float64)
    given = bind(users[0])
    gamma, variance = (
        attribute(network.module, str(given[name].target)).detach().double().cpu() if given[name] is not None else None
        for name in ("weight", "running_var")
    )
    if variance is None:
        return torch.ones(1, dtype=torch.float64)
    gain = (variance + given["eps"]).rsqrt()
    return (gain if gamma is None else gain * gamma).view(-1, *[1] * (weight.dim() - 1))


def _starts(readers: list[_Reader]) -> list[int]:
    """Where the inputs of each begin, one behind the other."""
    sizes = torch.tensor([reader.weight.shape[1] for reader in readers])
    return [int(start) for start in sizes.cumsum(0) - sizes]


def _alone(reader: _Reader) -> Tensor:
    """What each unit costs this reader when it alone leaves. [width]"""
    blocks = reader.inverse[reader.columns[:, :, None], reader.columns[:, None, :]]
    lost = reader.weight[:, reader.columns].movedim(1, 0)  # [width, m, c]
    return (torch.linalg.solve(blocks, lost.mT).mT * lost).sum((1, 2))
