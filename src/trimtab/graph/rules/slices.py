"""Slices and splits: runs of a dimension, at borders that are written anew after a cut."""

from collections.abc import Sequence

import torch
from torch.fx import Node

from trimtab.graph.axes import Dim, MisfitError, cut_right, is_free, size, split
from trimtab.graph.kept import Kept
from trimtab.graph.rules.table import rule
from trimtab.graph.values import Call, Fix, Value, bind, set_argument

aten = torch.ops.aten


@rule(aten.slice.Tensor)
def slice_(call: Call) -> Value:
    """x[start:end:step] along one dimension."""
    x = call.value("self")
    at = call.axis("dim", len(x.dims))
    n = size(x.dims[at])
    if call.raw("start") in (0, None) and call.raw("step") == 1 and call.shape[at] == n and _whole(call, n):
        return x.view(x.dims)
    if not is_free(x.dims[at]):
        return _replaced(x, at, call.constant(call.shape[at]))
    if call.integer("step") != 1:
        return _strided(call, x, at)
    start = border(call.raw("start"), n, 0)
    end = max(border(call.raw("end"), n, n), start)
    before, part, _ = split(x.dims[at], [start, end - start, n - end], call.why("a slice falls across factors"))
    call.alone(x.dims[at], part)
    emit_borders(call, before, part, x.dims[at])
    return _replaced(x, at, part)


def _strided(call: Call, x: Value, at: int) -> Value:
    """Every so many positions: one of each inner factor, where the factors fit and the slice runs to the end."""
    n, step = size(x.dims[at]), call.integer("step")
    start = border(call.raw("start"), n, 0)
    if n % step or start >= step or not _whole(call, n) or call.shape[at] != n // step:
        call.freeze([x.dims[at]], "a slice takes every so many positions of this dimension")
        return _replaced(x, at, call.constant(call.shape[at]))
    outer, inner = cut_right(x.dims[at], step, call.why("a strided slice falls across factors"))
    call.freeze([inner], "a slice takes every so many positions of this dimension")
    return _replaced(x, at, outer)


def _whole(call: Call, n: int) -> bool:
    end = call.raw("end")
    return end is None or not isinstance(end, int) or end >= n


def border(raw: object, n: int, default: int) -> int:
    """A written-out border as a position from 0 to n. Raises: MisfitError when it is computed."""
    if raw is None:
        return default
    if not isinstance(raw, int):
        raise MisfitError("a slice's border is computed")
    return min(max(raw + n if raw < 0 else raw, 0), n)


def emit_borders(call: Call, before: Dim, part: Dim, whole: Dim) -> None:
    """Write `start` and `end` anew for the run `part` of a dimension, which stands behind `before`."""

    def fix(node: Node, kept: Kept) -> None:
        given, n = bind(node), kept.size(whole)
        start, end = kept.size(before), kept.size(before) + kept.size(part)
        if start != border(given["start"], n, 0):
            set_argument(node, "start", start)
        if end != border(given["end"], n, n):
            set_argument(node, "end", end)

    call.fix(fix)


def _replaced(x: Value, at: int, dim: Dim) -> Value:
    return x.view([*x.dims[:at], dim, *x.dims[at + 1 :]])


@rule(aten.narrow.default, aten.narrow_copy.default)
def narrow(call: Call) -> Value:
    """x[start : start + length] along one dimension."""
    x = call.value("self")
    at = call.axis("dim", len(x.dims))
    n, length = size(x.dims[at]), call.integer("length")
    start = border(call.raw("start"), n, 0)
    before, part, _ = split(x.dims[at], [start, length, n - start - length], call.why("a slice falls across factors"))

    def fix(node: Node, kept: Kept) -> None:
        if kept.changed(before) or kept.changed(part) or kept.changed(x.dims[at]):
            set_argument(node, "start", kept.size(before))
            set_argument(node, "length", kept.size(part))

    call.fix(fix)
    return _replaced(x, at, part)


@rule(aten.select.int)
def select(call: Call) -> Value:
    """One position of a dimension."""
    x = call.value("self")
    at = call.axis("dim", len(x.dims))
    dim = x.dims[at]
    left = [*x.dims[:at], *x.dims[at + 1 :]]
    if not is_free(dim):
        return x.view(left)
    index = call.integer("index") % size(dim)
    why = call.why("one position is selected across factors")
    before, one, _ = split(dim, [index, 1, size(dim) - index - 1], why)
    call.freeze([one], "one position of this dimension is selected")
    call.alone(dim, one)

    def fix(node: Node, kept: Kept) -> None:
        if kept.changed(dim):
            set_argument(node, "index", kept.size(before))

    call.fix(fix)
    return x.view(left)


@rule(aten.split_with_sizes.default, aten.split.sizes)
def split_with_sizes(call: Call) -> list[Value]:
    """Consecutive runs of written-out sizes."""
    return _split(call, "split_sizes" if "split_sizes" in call.arguments else "split_size")


@rule(
    aten.split.Tensor,
    aten.chunk.default,
    aten.unsafe_split.Tensor,
    aten.unsafe_chunk.default,
    aten.tensor_split.sections,
    aten.tensor_split.indices,
)
def chunk(call: Call) -> list[Value]:
    """Runs of equal sizes or between borders, which become runs of written-out sizes when a cut changes them."""
    return _split(call, None)


@rule(aten.hsplit.int, aten.hsplit.array)
def hsplit(call: Call) -> list[Value]:
    """Runs of dimension 1, or of the only one."""
    return _split(call, None, 1 if len(call.value("self").dims) > 1 else 0)


@rule(aten.vsplit.int, aten.vsplit.array)
def vsplit(call: Call) -> list[Value]:
    """Runs of dimension 0."""
    return _split(call, None, 0)


@rule(aten.dsplit.int, aten.dsplit.array)
def dsplit(call: Call) -> list[Value]:
    """Runs of dimension 2."""
    return _split(call, None, 2)


def _split(call: Call, name: str | None, along: int | None = None) -> list[Value]:
    x = call.value("self")
    at = call.axis("dim", len(x.dims)) if along is None else along
    sizes = [shape[at] for shape in call.shapes]
    if not is_free(x.dims[at]):
        return [_replaced(x, at, call.constant(n)) for n in sizes]
    parts = split(x.dims[at], sizes, call.why("a split falls across factors"))
    for part in parts:
        call.alone(x.dims[at], part)
    call.fix(_emit_split(parts, name, at))
    return [_replaced(x, at, part) for part in parts]


def _emit_split(parts: Sequence[Dim], name: str | None, at: int) -> Fix:
    def fix(node: Node, kept: Kept) -> None:
        sizes = [kept.size(part) for part in parts]
        if sizes == [size(part) for part in parts]:
            return
        if name is not None:
            set_argument(node, name, sizes)
            return
        given = bind(node)
        node.target = aten.split_with_sizes.default
        node.args, node.kwargs = (given["self"], sizes, at), {}

    return fix


@rule(aten.glu.default)
def glu(call: Call) -> Value:
    """The first half of a dimension times the sigmoid of the second: the halves are cut alike."""
    x = call.value("self")
    at = call.axis("dim", len(x.dims))
    half = call.shape[at]
    first, second = split(x.dims[at], [half, half], call.why("halves fall across factors"))
    call.unify(first, second)
    return x.new([*x.dims[:at], first, *x.dims[at + 1 :]])


@rule(aten.unbind.int)
def unbind(call: Call) -> list[Value]:
    """Every position of a dimension apart; their number is part of the graph."""
    x = call.value("self")
    at = call.axis("dim", len(x.dims))
    call.freeze([x.dims[at]], "positions of this dimension go separate ways")
    left = [*x.dims[:at], *x.dims[at + 1 :]]
    return [x.view(left) for _ in call.shapes]
