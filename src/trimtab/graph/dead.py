"""Dead parts: units and branches that change no output because weights are exactly zero, and the network without them.

A unit is dead when nobody reads it (the weights that would are zero), when it is zero where it is read (the weights
that make it are), or a mixture: at every sum over its channel one of the factors vanishes. The analysis of the axes
finds that, told which slices of the parameters are zero.
"""

import copy
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trimtab.graph.analysis import analyse, attribute
from trimtab.graph.axes import Axis, leaves, resolve
from trimtab.graph.depth.branches import Branch
from trimtab.graph.depth.removal import without
from trimtab.graph.groups import ChannelGroup, ParamDim
from trimtab.graph.network import Network
from trimtab.graph.surgery import cut
from trimtab.graph.values import Value
from trimtab.graph.zeros import idle_additions

Slices = Mapping[tuple[str, int], bool]
"""Of one unit: whether all that a parameter has of it along a dimension is zero."""


def shrink(network: Network) -> Network:
    """A new network without units and branches that change no output: equal outputs, up to rounding.

    What only they read becomes dead in turn, and goes too. A group keeps the fewest units that it may have, and a
    number that is a multiple of what it must be; dead units that stay for that are zero. Weights that are rounded to
    zero are zero.
    """
    current = network.clone()
    _clear_rounded(current)
    while True:
        units, branches = dead_units(current), idle_branches(current)
        cleared = _clear(current, units)
        kept = _kept(current, units)
        if not (kept or branches or cleared):
            return current
        current = cut(current, kept) if kept else current
        current = without(current, branches) if branches else current


@torch.no_grad()
def _clear_rounded(network: Network) -> None:
    """Parameters that one module rounds, and nobody else reads, become zero where they are rounded to it.

    Unless others were then rounded otherwise, because the scale depends on all of them.
    """
    module = network.module
    reads = [node for node in module.graph.nodes if node.op == "get_attr"]
    readers = Counter(id(attribute(module, str(read.target))) for read in reads for _ in read.users)
    for node in module.graph.nodes:
        read = node.all_input_nodes
        if node.op != "call_module" or len(read) != 1 or read[0].op != "get_attr":
            continue
        parameter, rounding = attribute(module, str(read[0].target)), module.get_submodule(node.target)
        if readers[id(parameter)] > 1:
            continue
        rounded = rounding(parameter)
        cleared = parameter.masked_fill(rounded == 0, 0.0)
        if torch.equal(rounding(cleared), rounded):
            parameter.copy_(cleared)


def dead(network: Network) -> tuple[dict[str, tuple[int, ...]], tuple[str, ...]]:
    """The units that stay in each group that loses dead ones, and the branches whose contribution is exactly zero.

    Also additions to a value that is no shortcut: they go by the name of their node.
    """
    return _kept(network, dead_units(network)), tuple(branch.name for branch in idle_branches(network))


def idle_branches(network: Network) -> list[Branch]:
    """What adds exactly zero: branches of the network, and other additions as branches without parameters."""
    known = {(branch.node, branch.operand): branch for branch in network.branches}
    found = []
    for node, operand in idle_additions(network.module):
        bare = Branch(
            name=node.name, parameters=(), layers=(), parameter_count=0, node=node.name, inside=(), operand=operand
        )
        found.append(known.get((node.name, operand), bare))
    return found


def dead_units(network: Network) -> dict[str, Tensor]:
    """By group, which units are dead ([width], bool)."""
    patterns = {group.name: _Patterns(network, group) for group in network.groups}
    for turn in range(max((len(found.slices) for found in patterns.values()), default=0)):
        tried = {name: found.slices[turn] for name, found in patterns.items() if turn < len(found.slices)}
        vanish = _vanishing(network, tried)
        for name in tried:
            patterns[name].dead.append(name in vanish)
    return {name: found.units() for name, found in patterns.items()}


class _Patterns:
    """The units of a group by which of their slices are zero: those of one pattern are dead together or not at all."""

    def __init__(self, network: Network, group: ChannelGroup) -> None:
        members = [member for member in group.members if member.role != "buffer"]
        rows = [torch.ones(group.width, dtype=torch.bool), *(_zero_units(network, group, m) for m in members)]
        found, self._number = torch.stack(rows, dim=1).unique(dim=0, return_inverse=True)
        self.slices: list[Slices] = [
            {(m.parameter, m.dim): zero for m, zero in zip(members, pattern[1:], strict=True)}
            for pattern in found.tolist()
        ]
        self.dead: list[bool] = []

    def units(self) -> Tensor:
        return torch.tensor(self.dead, dtype=torch.bool)[self._number]


def _zero_units(network: Network, group: ChannelGroup, member: ParamDim) -> Tensor:
    """Which units have nothing but zeros in a member. [width], bool"""
    units = network.units(group, member)
    values = network.module.get_parameter(member.parameter).detach()
    busy = (values != 0).movedim(member.dim, 0).reshape(len(units), -1).any(1).cpu()
    here = units >= 0
    return torch.zeros(group.width, dtype=torch.long).index_add(0, units[here], busy[here].long()) == 0


def _vanishing(network: Network, tried: Mapping[str, Slices]) -> set[str]:
    """The groups of which a unit with these zero slices is dead, each on its own.

    The graph is analysed again on a copy of the axes, with a unit's slices alive where they are not zero.
    """
    tried = {name: slices for name, slices in tried.items() if any(slices.values())}
    if not tried:
        return set()
    analysis, copies = network.analysis, dict[int, Any]()
    dims = {
        key: tuple(copy.deepcopy(resolve(dim), copies) for dim in whole)
        for key, whole in analysis.tensors.items()
        if key not in analysis.buffers
    }
    atoms: dict[str, Axis] = {name: copies[id(network.group(name).axis)] for name in tried}
    known = {}
    for key, whole in dims.items():
        alive = tuple(
            frozenset(atoms[name] for name, slices in tried.items() if not slices.get((analysis.names[key], d), True))
            for d in range(len(whole))
        )
        origin = tuple((key, d) for d in range(len(whole)))
        known[key] = Value(whole, set[Axis]().union(*alive), origin, const=True, alive_by_dim=alive)
    found = analyse(network.module, known)
    mixed = [choice.dims[choice.at] for choice in found.hidden.values()]
    mixed += [dim for norm in found.over_kept.values() for dim in norm.mixed]
    used = {*found.inexact, *(atom for dim in mixed for atom in leaves(dim))}
    return {name for name, atom in atoms.items() if not any(a in used or a.frozen for a in leaves((atom,)))}


def _kept(network: Network, dead: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The units to keep of each group that loses some: those alive, and as many dead ones as it must have."""
    kept = {}
    for group in network.groups:
        gone = dead[group.name]
        living = int((~gone).sum())
        count = max(-(-living // group.multiple_of) * group.multiple_of, group.least)
        if count < group.width:
            stays = torch.argsort(gone, stable=True)[:count]
            kept[group.name] = tuple(sorted(stays.tolist()))
    return kept


def _clear(network: Network, dead: Mapping[str, Tensor]) -> bool:
    """Make all slices of dead units zero, in place; whether any was not."""
    cleared = False
    with torch.no_grad():
        for group in network.groups:
            for member in group.members:
                if member.role != "buffer" and bool(dead[group.name].any()):
                    units = network.units(group, member)
                    gone = (units >= 0) & dead[group.name][units.clamp(min=0)]
                    parameter = network.module.get_parameter(member.parameter)
                    positions = gone.nonzero().squeeze(1).to(parameter.device)
                    cleared |= bool(parameter.index_select(member.dim, positions).any())
                    parameter.index_fill_(member.dim, positions, 0.0)
    return cleared
