"""Channel groups: atoms that may be cut, under stable names, with every parameter dimension that they reach."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trimtab.graph.analysis import Analysis
from trimtab.graph.axes import Axis, Dim, Freeze, leaves, resolve, segments, size
from trimtab.graph.limits import Limit

_RECURRENT = re.compile(r"\.weight_ih$|(^|\.)weight_(?:ih_|(?=hr_))((?:hr_)?l\d+(?:_reverse)?)$")
"""`lstm.weight_ih_l0` makes the units `lstm.l0`, `lstm.weight_hr_l0` projects them to `lstm.hr_l0`."""


@dataclass(frozen=True, kw_only=True)
class ParamDim:
    """A dimension of a parameter or buffer. `role`: out, in, norm, scale, buffer or other."""

    parameter: str
    dim: int
    role: str


@dataclass(frozen=True, kw_only=True)
class ChannelGroup:
    """Units that are removed together in every member.

    `width` units; the number kept must be a multiple of `multiple_of` and not below `at_least` (as many as a top-k
    chooses). One unit stands for `unit_size` channels of the first member (all those of a head). When not `exact`,
    `reason` says why the cut network cannot equal the masked one.
    """

    name: str
    width: int
    multiple_of: int = 1
    at_least: int = 1
    unit_size: int = 1
    members: tuple[ParamDim, ...]
    exact: bool = True
    reason: str = ""
    axis: Axis = field(repr=False, compare=False)

    @property
    def least(self) -> int:
        """The fewest units that may be kept."""
        return Limit(at_least=self.at_least, multiple_of=self.multiple_of).least


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """An axis that a layer produces and that keeps its size: the operator, its reason and its place."""

    name: str
    width: int
    operator: str
    reason: str
    source: str


@dataclass(frozen=True)
class Place:
    """Where an atom sits: a dimension of a tensor, and the suffix of its name there ("" when it is the whole of it)."""

    key: int
    dim: int
    suffix: str


def places(analysis: Analysis) -> dict[Axis, list[Place]]:
    """Every place of every atom, in the order in which the graph reads the tensors."""
    out: dict[Axis, list[Place]] = {}
    for key, dims in analysis.tensors.items():
        for i, dim in enumerate(dims):
            for atom, suffix in _suffixes(dim):
                out.setdefault(atom, []).append(Place(key, i, suffix))
    return out


def _suffixes(dim: Dim, offset: int = 0, inside: bool = False) -> Iterator[tuple[Axis, str]]:
    """Atoms of a dimension with their names in it: `[a:b]` for a segment, `/k` for the k-th factor of a product."""
    axes = resolve(dim)
    for k, axis in enumerate(axes):
        factor = f"/{k}" if len(axes) > 1 else ""
        here = f"[{offset}:{offset + size(dim)}]" if inside else ""
        if axis.segments is None:
            yield axis, here + factor
            continue
        at = offset if len(axes) == 1 else 0
        for part in segments(axis):
            for atom, suffix in _suffixes(part, at, inside=True):
                yield atom, (here + factor if len(axes) > 1 else "") + suffix
            at += size(part)


def find_groups(analysis: Analysis) -> tuple[tuple[ChannelGroup, ...], tuple[Frozen, ...]]:
    """The groups and the frozen axes, in the order of the layers that produce them."""
    found = places(analysis)
    names: dict[Axis, str] = {}
    for dim, origin in analysis.produced:
        for atom, suffix in _suffixes(dim):
            if atom in names or atom not in found:
                continue
            spot = Place(*origin, suffix) if origin is not None else found[atom][0]
            names[atom] = _name(analysis, spot, set(names.values()))
    groups = (_group(analysis, atom, name, found[atom]) for atom, name in names.items() if atom in analysis.cuttable)
    frozen = (_frozen(atom, name, atom.frozen) for atom, name in names.items() if atom.frozen is not None)
    return tuple(groups), (*frozen, *_taken_apart(analysis))


def _taken_apart(analysis: Analysis) -> Iterator[Frozen]:
    """Dimensions that layers produce of which only single positions are left."""
    for dim, origin in analysis.produced:
        if origin is None or size(dim) == 1 or any(leaves(dim)):
            continue
        why = next((why for other, why in analysis.alone if set(resolve(other)) & set(resolve(dim))), None)
        if why is not None:
            name = _name(analysis, Place(*origin, ""), set())
            yield Frozen(name=name, width=size(dim), operator=why.operator, reason=why.reason, source=why.source)


def _frozen(atom: Axis, name: str, why: Freeze) -> Frozen:
    return Frozen(name=name, width=atom.size, operator=why.operator, reason=why.reason, source=why.source)


def _name(analysis: Analysis, spot: Place, taken: set[str]) -> str:
    """The producing layer's name and the suffix there."""
    name = _RECURRENT.sub(r"\1\2", analysis.names[spot.key]).removesuffix(".weight") + spot.suffix
    return name if name not in taken else f"{name}@{spot.dim}"


def _group(analysis: Analysis, atom: Axis, name: str, spots: list[Place]) -> ChannelGroup:
    keys = sorted(
        dict.fromkeys((spot.key, spot.dim) for spot in spots), key=lambda key: analysis.roles.get(key) != "out"
    )
    members = tuple(
        ParamDim(parameter=analysis.names[key], dim=dim, role=_role(analysis, key, dim)) for key, dim in keys
    )
    why = analysis.inexact.get(atom)
    reason = f"{why.reason} ({why.operator}, {why.source})" if why else ""
    limit = analysis.limits.get(atom, Limit())
    return ChannelGroup(
        name=name,
        width=atom.size,
        multiple_of=limit.multiple_of,
        at_least=limit.least,
        unit_size=int((units_of(atom, analysis.tensors[keys[0][0]][keys[0][1]]) >= 0).sum()) // atom.size,
        members=members,
        exact=why is None,
        reason=reason,
        axis=atom,
    )


def _role(analysis: Analysis, key: int, dim: int) -> str:
    return "buffer" if key in analysis.buffers else analysis.roles.get((key, dim), "other")


def units_of(atom: Axis, dim: Dim) -> Tensor:
    """The unit of `atom` at every position of `dim` (long), -1 where the position is not of this atom."""
    out = torch.full((1,), -1, dtype=torch.long)
    for axis in resolve(dim):
        inner = _units_of_axis(atom, axis)
        out = torch.maximum(out[:, None], inner[None, :]).flatten()
    return out


def _units_of_axis(atom: Axis, axis: Axis) -> Tensor:
    if axis is atom:
        return torch.arange(atom.size)
    if axis.segments is None:
        return torch.full((axis.size,), -1, dtype=torch.long)
    return torch.cat([units_of(atom, part) for part in segments(axis)])


Terms = tuple[tuple[int, tuple[str, ...]], ...]


def terms_of(dim: Dim, names: dict[Axis, str]) -> Terms:
    """The size of a dimension as a polynomial in the widths of named atoms; the others are constants."""
    total = _polynomial(dim, names)
    return tuple((coefficient, factors) for factors, coefficient in sorted(total.items()))


def _polynomial(dim: Dim, names: dict[Axis, str]) -> dict[tuple[str, ...], int]:
    out: dict[tuple[str, ...], int] = {(): 1}
    for axis in resolve(dim):
        factor = _axis_polynomial(axis, names)
        product: dict[tuple[str, ...], int] = {}
        for a, m in out.items():
            for b, n in factor.items():
                key = tuple(sorted((*a, *b)))
                product[key] = product.get(key, 0) + m * n
        out = product
    return out


def _axis_polynomial(axis: Axis, names: dict[Axis, str]) -> dict[tuple[str, ...], int]:
    if axis.segments is None:
        return {(names[axis],): 1} if axis in names else {(): axis.size}
    out: dict[tuple[str, ...], int] = {}
    for part in segments(axis):
        for key, n in _polynomial(part, names).items():
            out[key] = out.get(key, 0) + n
    return out


def has_atom(dim: Dim, cut: set[Axis]) -> bool:
    """Whether a dimension contains one of the atoms."""
    return any(atom in cut for atom in leaves(dim))
