"""Axes of tensors, and what it means for two of them to be the same.

An `Axis` is a node of a union-find. Its root is an *atom*, a *product* of axes (outer to inner) or a *sum* of segments
(in order). A `Dim` (one dimension of a tensor) is a product of axes; the empty product has size 1. Axes are refined in
place when an operator asks for it (a view splits a product, a slice splits a sum), so a `Dim` is only ever read through
`resolve`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod


@dataclass(frozen=True, kw_only=True)
class Freeze:
    """Why an axis keeps its size: the operator that asked for it, its place in the user's code, and the reason."""

    operator: str
    reason: str
    source: str


class MisfitError(Exception):
    """Axes cannot express what an operator asks for; the caller freezes them."""


class Axis:
    """A union-find node; at most one of `parent`, `factors` (product), `segments` (sum) and `frozen` is set."""

    __slots__ = ("factors", "frozen", "parent", "segments", "size")

    def __init__(self, size: int, *, frozen: Freeze | None = None, segments: "tuple[Dim, ...] | None" = None) -> None:
        self.size = size
        self.parent: Axis | None = None
        self.factors: Dim | None = None
        self.segments: tuple[Dim, ...] | None = segments
        self.frozen: Freeze | None = frozen

    def __repr__(self) -> str:
        root = find(self)
        if root.factors is not None:
            return "(" + "·".join(map(repr, root.factors)) + ")"
        if root.segments is not None:
            return "[" + "+".join(map(repr, root.segments)) + "]"
        return f"{'!' if root.frozen else ''}{root.size}@{id(root) % 9973}"


Dim = tuple[Axis, ...]


def find(axis: Axis) -> Axis:
    """The root that stands for `axis`, with path compression."""
    root = axis
    while root.parent is not None:
        root = root.parent
    while axis.parent is not None:
        axis.parent, axis = root, axis.parent
    return root


def size(dim: Dim) -> int:
    """Original number of positions; never changes by refinement."""
    return prod(axis.size for axis in dim)


def fresh(n: int) -> Dim:
    """A dimension of `n` positions that nothing is known about; size 1 is the empty product."""
    return () if n == 1 else (Axis(n),)


def constant(n: int, why: Freeze) -> Dim:
    """A frozen dimension of `n` positions."""
    return () if n == 1 else (Axis(n, frozen=why),)


def resolve(dim: Dim) -> Dim:
    """The dimension as atoms and sums (roots): products expanded, factors of size 1 dropped."""
    out: list[Axis] = []
    for axis in dim:
        root = find(axis)
        if root.factors is not None:
            root.factors = resolve(root.factors)
            out.extend(root.factors)
        elif root.segments is not None:
            parts = segments(root)
            out.extend(parts[0] if len(parts) == 1 else (root,))
        elif root.size != 1:
            out.append(root)
    return tuple(out)


def segments(root: Axis) -> tuple[Dim, ...]:
    """The segments of a sum, resolved, with sums inside sums spliced in."""
    out: list[Dim] = []
    for part in root.segments or ():
        resolved = resolve(part)
        if len(resolved) == 1 and resolved[0].segments is not None:
            out.extend(segments(resolved[0]))
        else:
            out.append(resolved)
    root.segments = tuple(out)
    return root.segments


def leaves(dim: Dim) -> Iterator[Axis]:
    """Every atom (root) of the dimension, in order; one may occur again."""
    for axis in resolve(dim):
        if axis.segments is None:
            yield axis
        else:
            for part in segments(axis):
                yield from leaves(part)


def products(dim: Dim) -> Iterator[Dim]:
    """Every product of several factors within the dimension."""
    axes = resolve(dim)
    if len(axes) > 1:
        yield axes
    for axis in axes:
        if axis.segments is not None:
            for part in segments(axis):
                yield from products(part)


def why_frozen(dim: Dim) -> Freeze | None:
    """The reason of the first atom, if every atom is frozen; None otherwise, and for an empty product."""
    first: Freeze | None = None
    for atom in leaves(dim):
        if atom.frozen is None:
            return None
        first = first or atom.frozen
    return first


def is_free(dim: Dim) -> bool:
    """Whether any atom of the dimension may still be cut."""
    return any(atom.frozen is None for atom in leaves(dim))


def freeze(dim: Dim, why: Freeze) -> None:
    """Forbid every cut of the dimension. An atom keeps the first reason that it was given."""
    for atom in leaves(dim):
        if atom.frozen is None:
            atom.frozen = why


def coalesce(axes: Iterable[Axis]) -> Dim:
    """Resolved axes, with neighbours that are frozen joined into one fresh frozen atom."""
    out: list[Axis] = []
    for axis in resolve(tuple(axes)):
        why = why_frozen((axis,))
        if out and why is not None and out[-1].frozen is not None:
            out[-1] = Axis(out[-1].size * axis.size, frozen=why)
        elif why is not None:
            out.append(Axis(axis.size, frozen=why))
        else:
            out.append(axis)
    return tuple(out)


def join(dims: Sequence[Dim]) -> Dim:
    """The sum of segments in order (a concatenation)."""
    parts = [dim for dim in dims if size(dim)]
    if len(parts) == 1:
        return parts[0]
    whys = [why_frozen(dim) for dim in parts]
    known = next((why for why in whys if why is not None), None)
    if known is not None and not any(is_free(dim) for dim in parts):
        return (Axis(sum(map(size, parts)), frozen=known),)
    return (Axis(sum(map(size, parts)), segments=tuple(parts)),)


def cut_right(dim: Dim, n: int, why: Freeze) -> tuple[Dim, Dim]:
    """(outer, inner) with an inner part of size `n`; splits an axis when `n` falls inside it. Raises: MisfitError."""
    rest = list(coalesce(dim))
    inner: list[Axis] = []
    need = n
    while need > 1:
        if not rest:
            raise MisfitError(f"a factor of {n} cannot be taken from a dimension of {size(dim)}")
        axis = rest.pop()
        if need % axis.size == 0:
            inner.insert(0, axis)
            need //= axis.size
        elif axis.size % need == 0:
            split_inner(axis, need, why)
            rest.extend(resolve((axis,)))
        else:
            raise MisfitError(f"a factor of {n} falls across an axis of {axis.size}")
    return tuple(rest), tuple(inner)


def split_inner(axis: Axis, n: int, why: Freeze) -> None:
    """Turn a root (atom or sum) into a product with an inner factor of `n`. Raises: MisfitError."""
    if axis.size % n:
        raise MisfitError(f"an axis of {axis.size} is not a multiple of {n}")
    if axis.segments is None:
        axis.factors = (Axis(axis.size // n, frozen=axis.frozen), Axis(n, frozen=axis.frozen))
        axis.frozen = None
        return
    parts = segments(axis)
    if any(size(part) % n for part in parts):
        raise MisfitError(f"a segment of {[size(part) for part in parts]} is not a multiple of {n}")
    pairs = [cut_right(part, n, why) for part in parts]
    inner = pairs[0][1]
    for _, other in pairs[1:]:
        unify(inner, other, why)
    outer = [pair[0] for pair in pairs]
    whole = join(outer) if any(is_free(dim) for dim in outer) else constant(len_of(outer), why)
    axis.factors, axis.segments = (*whole, *inner), None


def len_of(dims: Sequence[Dim]) -> int:
    """Positions of consecutive segments together."""
    return sum(map(size, dims))


def split(dim: Dim, sizes: Sequence[int], why: Freeze) -> tuple[Dim, ...]:
    """Consecutive runs of a dimension; a run of 0 positions is an axis of size 0. Raises: MisfitError."""
    frozen = why_frozen(dim)
    if sum(sizes) != size(dim):
        raise MisfitError(f"runs of {list(sizes)} do not fill a dimension of {size(dim)}")
    if len([n for n in sizes if n]) == 1:
        return tuple(dim if n else (Axis(0, frozen=why),) for n in sizes)
    if frozen is not None:
        return tuple(constant(n, frozen) for n in sizes)
    axes = coalesce(dim)
    if len(axes) == 1:
        return _runs(axes[0], sizes, why)
    inner = axes[1:]
    if any(n % size(inner) for n in sizes):
        raise MisfitError(f"runs of {list(sizes)} fall across a factor of {size(inner)}")
    outer = split(axes[:1], [n // size(inner) for n in sizes], why)
    return tuple((*part, *inner) for part in outer)


def _runs(axis: Axis, sizes: Sequence[int], why: Freeze) -> tuple[Dim, ...]:
    refine(axis, _boundaries(sizes), why)
    parts = iter(segments(axis))
    out: list[Dim] = []
    for n in sizes:
        run: list[Dim] = []
        while len_of(run) < n:
            run.append(next(parts))
        out.append(join(run) if run else (Axis(0, frozen=why),))
    return tuple(out)


def _boundaries(sizes: Iterable[int]) -> set[int]:
    out, at = set(), 0
    for n in sizes:
        at += n
        out.add(at)
    return out


def refine(axis: Axis, cuts: set[int], why: Freeze) -> None:
    """Make a root (atom or sum) a sum with borders at `cuts`; a segment that cannot be split is frozen."""
    if axis.segments is None:
        borders = sorted({0, axis.size, *cuts})
        axis.segments = tuple((Axis(b - a, frozen=axis.frozen),) for a, b in pairwise(borders))
        axis.frozen = None
        return
    out: list[Dim] = []
    at = 0
    for part in segments(axis):
        n = size(part)
        borders = sorted({0, n, *(cut - at for cut in cuts if at < cut < at + n)})
        at += n
        out.extend(_pieces(part, [b - a for a, b in pairwise(borders)], why))
    axis.segments = tuple(out)


def _pieces(part: Dim, sizes: list[int], why: Freeze) -> Sequence[Dim]:
    if len(sizes) == 1:
        return [part]
    try:
        return split(part, sizes, why)
    except MisfitError as error:
        because = Freeze(operator=why.operator, reason=str(error), source=why.source)
        freeze(part, because)
        return [constant(n, because) for n in sizes]


def unify(a: Dim, b: Dim, why: Freeze) -> None:
    """Make two dimensions the same; what cannot be expressed freezes both. Raises: MisfitError on sizes."""
    if size(a) != size(b):
        raise MisfitError(f"dimensions of {size(a)} and {size(b)} positions meet")
    try:
        _unify(a, b, why)
    except MisfitError as error:
        because = Freeze(operator=why.operator, reason=str(error), source=why.source)
        freeze(a, because)
        freeze(b, because)


def _unify(a: Dim, b: Dim, why: Freeze) -> None:
    left, right = list(coalesce(a)), list(coalesce(b))
    while left and right:
        x, y = left[-1], right[-1]
        if x.size == y.size:
            _merge(x, y, why)
            left.pop()
            right.pop()
        elif x.size > y.size:
            _match(left, right, why)
        else:
            _match(right, left, why)
        left, right = list(coalesce(left)), list(coalesce(right))


def _match(larger: list[Axis], smaller: list[Axis], why: Freeze) -> None:
    """Give the last axis of `larger` an inner factor of the size of the last of `smaller`.

    From a frozen one the factor is taken away at once: coalescing would join it again, for ever.
    """
    x, y = larger[-1], smaller[-1]
    if x.frozen is None:
        split_inner(x, y.size, why)
        return
    if x.size % y.size:
        raise MisfitError(f"an axis of {x.size} is not a multiple of {y.size}")
    freeze((y,), x.frozen)
    smaller.pop()
    larger[-1] = Axis(x.size // y.size, frozen=x.frozen)


def _merge(x: Axis, y: Axis, why: Freeze) -> None:
    """Two roots (atoms or sums) of one size become one; a frozen one freezes the other and stays apart."""
    if x is y:
        return
    frozen = why_frozen((x,)) or why_frozen((y,))
    if frozen is not None:
        freeze((x,), frozen)
        freeze((y,), frozen)
    elif x.segments is None:
        x.parent = y
    elif y.segments is None:
        y.parent = x
    else:
        cuts = _boundaries(map(size, segments(x))) | _boundaries(map(size, segments(y)))
        refine(x, cuts, why)
        refine(y, cuts, why)
        for p, q in zip(segments(x), segments(y), strict=True):
            unify(p, q, why)
        x.parent, x.segments = y, None
