"""Which positions of every axis stay: sizes, offsets and indices of dimensions after a cut."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from trimtab.graph.axes import Axis, Dim, resolve, segments, size


class Kept:
    """The units that each cut atom keeps; atoms that are not named keep all."""

    def __init__(self, units: Mapping[Axis, Sequence[int]]) -> None:
        self._units = {atom: torch.tensor(sorted(kept), dtype=torch.long) for atom, kept in units.items()}
        self._positions: dict[Axis, Tensor] = {}

    def positions(self, dim: Dim) -> Tensor:
        """Sorted positions of the dimension that stay (long): mixed radix over factors, offsets over segments."""
        out = torch.zeros(1, dtype=torch.long)
        for axis in resolve(dim):
            out = (out[:, None] * axis.size + self._axis(axis)[None, :]).flatten()
        return out

    def _axis(self, axis: Axis) -> Tensor:
        if axis not in self._positions:
            self._positions[axis] = self._find(axis)
        return self._positions[axis]

    def _find(self, axis: Axis) -> Tensor:
        if axis.segments is None:
            return self._units.get(axis, torch.arange(axis.size))
        parts, offset = [], 0
        for part in segments(axis):
            parts.append(self.positions(part) + offset)
            offset += size(part)
        return torch.cat(parts)

    def size(self, dim: Dim) -> int:
        """Number of positions that stay."""
        n = 1
        for axis in resolve(dim):
            n *= len(self._axis(axis))
        return n

    def changed(self, dim: Dim) -> bool:
        """Whether the dimension loses positions."""
        return self.size(dim) != size(dim)
