"""Cutting: a new network without the removed units, whose written-out sizes follow."""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx, nn

from trimtab.errors import PlanError
from trimtab.graph.analysis import Analysis, attribute
from trimtab.graph.axes import Dim
from trimtab.graph.copying import copy_module
from trimtab.graph.groups import has_atom
from trimtab.graph.kept import Kept
from trimtab.graph.network import Network


def cut(network: Network, kept: Mapping[str, Sequence[int]]) -> Network:
    """A new network in which every named group has only the units `kept` (indices, any order, no repeats).

    Parameters and buffers are sliced, arguments written anew; groups that are not named stay whole, and so does
    `network`. Raises: PlanError for an unknown group, an index out of range, too few kept, or a wrong multiple.
    """
    units = {network.group(name).axis: check_kept(network, name, indices) for name, indices in kept.items()}
    positions = Kept(units)
    shrinking = _shrinking(network, positions)
    module = copy_module(network.module, sharing=(tensor for _, tensor in shrinking))
    _slice_tensors(network, module, shrinking, positions)
    _emit(network.analysis, network.module, module, positions)
    other = Network(module, copy.deepcopy(network.example))
    other.training = network.training
    return other


def check_kept(network: Network, name: str, indices: Sequence[int]) -> list[int]:
    """The sorted units to keep of a group. Raises: PlanError."""
    group = network.group(name)
    units = sorted(int(i) for i in indices)
    if not units:
        raise PlanError(f"group {name!r}: at least {group.multiple_of} of {group.width} units must be kept, got none")
    if units[0] < 0 or units[-1] >= group.width:
        wrong = units[0] if units[0] < 0 else units[-1]
        raise PlanError(f"group {name!r}: units are 0 to {group.width - 1}, got {wrong}; leave it out")
    if len(set(units)) != len(units):
        raise PlanError(f"group {name!r}: a unit is kept twice; name every unit once")
    if len(units) < group.at_least:
        raise PlanError(
            f"group {name!r}: at least {group.at_least} of {group.width} units must be kept, got {len(units)}; "
            f"keep {group.at_least} or more"
        )
    if len(units) % group.multiple_of:
        low = len(units) // group.multiple_of * group.multiple_of
        near = f"{low or group.multiple_of} or {low + group.multiple_of}"
        raise PlanError(
            f"group {name!r}: the number kept must be a multiple of {group.multiple_of}, got {len(units)}; keep {near}"
        )
    return units


def _shrinking(network: Network, kept: Kept) -> list[tuple[str, Tensor]]:
    """Every tensor that loses positions, under each of its names."""
    names = [name for name, _ in network.module.named_parameters(remove_duplicate=False)]
    names += [name for name, _ in network.module.named_buffers(remove_duplicate=False)]
    names += [str(node.target) for node in network.module.graph.nodes if node.op == "get_attr"]
    tensors = ((name, attribute(network.module, name)) for name in dict.fromkeys(names))
    known = network.analysis.tensors | network.analysis.followers
    return [(name, tensor) for name, tensor in tensors if any(map(kept.changed, known.get(id(tensor), ())))]


def _slice_tensors(network: Network, module: fx.GraphModule, shrinking: list[tuple[str, Tensor]], kept: Kept) -> None:
    """Slice tensors, each once by identity, and set them in `module` under all their names."""
    dims = network.analysis.tensors | network.analysis.followers
    sliced: dict[int, Tensor] = {}
    for name, tensor in shrinking:
        if id(tensor) not in sliced:
            sliced[id(tensor)] = _slice(tensor, dims[id(tensor)], kept)
        owner, _, last = name.rpartition(".")
        setattr(module.get_submodule(owner), last, sliced[id(tensor)])


def _slice(tensor: Tensor, dims: tuple[Dim, ...], kept: Kept) -> Tensor:
    out = tensor.detach()
    for i, dim in enumerate(dims):
        if kept.changed(dim):
            out = out.index_select(i, kept.positions(dim).to(out.device))
    out = out.contiguous()
    return nn.Parameter(out, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else out


def _emit(analysis: Analysis, old: fx.GraphModule, new: fx.GraphModule, kept: Kept) -> None:
    """Apply the re-emissions to the copied graph, whose nodes stand in the same order."""
    twin = dict(zip(old.graph.nodes, new.graph.nodes, strict=True))
    for node, fix in analysis.fixes:
        fix(twin[node], kept)
    new.graph.lint()
    new.recompile()


def sliced(network: Network, values: Mapping[str, Tensor], kept: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Of tensors in the shapes of the parameters named, what a cut leaves of them. Raises: PlanError as `cut`."""
    positions = Kept({network.group(name).axis: check_kept(network, name, units) for name, units in kept.items()})
    return {name: _slice(value, network.dims(name), positions) for name, value in values.items()}


def masks(network: Network, kept: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """For every parameter with a cut axis: 1 where it stays and 0 where it goes (its shape, bool)."""
    units = {network.group(name).axis: check_kept(network, name, indices) for name, indices in kept.items()}
    positions = Kept(units)
    out = {}
    for name, parameter in network.named_parameters():
        dims = network.analysis.tensors.get(id(parameter), ())
        if not any(has_atom(dim, set(units)) for dim in dims):
            continue
        mask = torch.ones(parameter.shape, dtype=torch.bool)
        for i, dim in enumerate(dims):
            stays = torch.zeros(parameter.shape[i], dtype=torch.bool)
            stays[positions.positions(dim)] = True
            mask &= stays.view([-1 if d == i else 1 for d in range(len(dims))])
        out[name] = mask
    return out
