"""What is to be gone in the end: entries of weights, and units of channel groups; and what is gone so far."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from trimtab.errors import PlanError
from trimtab.graph import Network
from trimtab.graph.surgery import check_kept
from trimtab.plan import Sparsity
from trimtab.prune.granularity import check, keep
from trimtab.prune.masks import prunable


class Entries:
    """The entries of one weight. `kept`: where they stay so far (bool, the weight's shape).

    Where units of the weight will be cut, the sparsity is that of what is left after the cut: entries of such units
    are not counted, and stay as long as their units.
    """

    def __init__(self, layer: str, parameter: str, weight: nn.Parameter, sparsity: Sparsity, box: list[Tensor]) -> None:
        self.parameter, self.weight, self.sparsity = parameter, weight, sparsity
        self._box = tuple(
            positions.to(weight.device).view([-1 if d == i else 1 for d in range(weight.dim())])
            for i, positions in enumerate(box)
        )
        check(layer, [len(positions) for positions in box], sparsity)
        self.kept = torch.ones_like(weight, dtype=torch.bool)

    def inside(self, values: Tensor) -> Tensor:
        """What of the weight's values is left after the cut."""
        return values[self._box]

    def spread(self, inside: Tensor) -> Tensor:
        """A mask of the whole weight from one of what is left after the cut."""
        whole = torch.ones_like(self.kept)
        whole[self._box] = inside
        return whole

    def choose(self, scores: Tensor, level: float) -> Tensor:
        """The mask that keeps the highest scores (in the weight's shape) at a level of the sparsity."""
        return self.spread(keep(self.inside(scores), self.sparsity, level))


class Units:
    """The units of one channel group, zero in every member when gone. `stays`: [width] bool, so far.

    They leave in rising order of the L2 norm of what makes them (all "out" slices) until the final ones are left.
    """

    def __init__(self, network: Network, name: str, kept: Sequence[int]) -> None:
        group, self.name = network.group(name), name
        self.stays = torch.ones(group.width, dtype=torch.bool)
        self._final = torch.zeros(group.width, dtype=torch.bool)
        self._final[check_kept(network, name, kept)] = True
        self._parameters = dict(network.named_parameters())
        self._members = [member for member in group.members if member.parameter in self._parameters]
        self._units = [network.units(group, member) for member in self._members]

    def thin(self, level: float) -> None:
        """Let the share `level` of the units that leave be gone. None comes back."""
        leaving = ~self._final
        number = round(level * int(leaving.sum())) - int((~self.stays).sum())
        if number > 0:
            norms = self._norms().masked_fill(~(leaving & self.stays), torch.inf)
            self.stays[torch.sort(norms, stable=True).indices[:number]] = False

    def masks(self) -> dict[str, Tensor]:
        """By parameter, where it stays, in a shape that broadcasts to the parameter's."""
        found: dict[str, Tensor] = {}
        for member, units in zip(self._members, self._units, strict=True):
            parameter = self._parameters[member.parameter]
            shape = [-1 if d == member.dim else 1 for d in range(parameter.dim())]
            mask = _positions(units, self.stays).to(parameter.device).view(shape)
            found[member.parameter] = found[member.parameter] & mask if member.parameter in found else mask
        return found

    def left(self) -> dict[str, list[tuple[int, Tensor]]]:
        """By parameter, (dimension, bool [positions]): what is left after the cut."""
        found: dict[str, list[tuple[int, Tensor]]] = {}
        for member, units in zip(self._members, self._units, strict=True):
            found.setdefault(member.parameter, []).append((member.dim, _positions(units, self._final)))
        return found

    def _norms(self) -> Tensor:
        squares = torch.zeros(len(self.stays), dtype=torch.float64)
        for member, units in zip(self._members, self._units, strict=True):
            if member.role == "out":
                rows = self._parameters[member.parameter].detach().to("cpu", torch.float64).movedim(member.dim, 0)
                here = units >= 0
                squares.index_add_(0, units[here], rows.reshape(len(rows), -1).square().sum(1)[here])
        return squares.sqrt()


def goals(
    network: Network, sparsity: Mapping[str, Sparsity], kept: Mapping[str, Sequence[int]]
) -> tuple[list[Entries], list[Units]]:
    """Raises: PlanError for an unknown layer or group, and for what cannot be reached."""
    units = [Units(network, name, indices) for name, indices in kept.items()]
    known, parameters = prunable(network), dict(network.named_parameters())
    entries = []
    for layer, wanted in sparsity.items():
        if layer not in known:
            raise PlanError(f"sparsity: no layer {layer!r} that can be sparse; there are: {', '.join(known)}")
        name = known[layer]
        left = [torch.ones(size, dtype=torch.bool) for size in parameters[name].shape]
        for group in units:
            for dim, positions in group.left().get(name, []):
                left[dim] &= positions
        box = [positions.nonzero().squeeze(1) for positions in left]
        entries.append(Entries(layer, name, parameters[name], wanted, box))
    return entries, units


def _positions(units: Tensor, stays: Tensor) -> Tensor:
    """From units to positions of a dimension; a position that is no unit stays."""
    return (units < 0) | stays[units.clamp(min=0)]
