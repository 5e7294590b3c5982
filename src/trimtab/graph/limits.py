"""Widths that operators insist on: as many positions as a top-k chooses, rows of whole 16 bytes."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, gcd, lcm

from trimtab.graph.axes import Axis, Dim, Freeze, freeze, resolve, segments, size


@dataclass(frozen=True, kw_only=True)
class Limit:
    """What the number of positions that a dimension keeps must be."""

    at_least: int = 1
    multiple_of: int = 1

    @property
    def least(self) -> int:
        """The smallest number that is allowed."""
        return ceil(self.at_least / self.multiple_of) * self.multiple_of


def limits_of(stated: Iterable[tuple[Dim, Limit, Freeze]]) -> dict[Axis, Limit]:
    """What the number of units kept of an atom must be, so that every dimension keeps to its limit.

    Of a dimension that several atoms make up only the largest may be cut; an atom that can lose nothing is frozen.
    """
    out: dict[Axis, Limit] = {}
    for dim, limit, why in stated:
        _limit(out, dim, limit, why)
    return out


def _limit(out: dict[Axis, Limit], dim: Dim, limit: Limit, why: Freeze) -> None:
    factors = resolve(dim)
    parts = segments(factors[0]) if len(factors) == 1 and factors[0].segments is not None else ()
    if parts and limit.at_least == 1 and not any(size(part) % limit.multiple_of for part in parts):
        for part in parts:
            _limit(out, part, limit, why)
        return
    if any(axis.segments is not None for axis in factors):
        freeze(dim, why)
        return
    free = sorted((axis for axis in factors if axis.frozen is None), key=lambda axis: axis.size)
    freeze(tuple(free[:-1]), why)
    for atom in free[-1:]:
        rest, known = size(dim) // atom.size, out.get(atom, Limit())
        multiple = limit.multiple_of // gcd(limit.multiple_of, rest)
        out[atom] = Limit(
            at_least=max(known.at_least, ceil(limit.at_least / rest)), multiple_of=lcm(known.multiple_of, multiple)
        )
        if out[atom].least >= atom.size:
            freeze((atom,), why)
