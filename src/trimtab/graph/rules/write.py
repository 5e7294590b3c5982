"""Writing over a part of a tensor: a run, one position, a diagonal, or what a mask shows."""

import torch
from torch.fx import Node

from trimtab.graph.axes import MisfitError, is_free, size, split
from trimtab.graph.kept import Kept
from trimtab.graph.rules.elementwise import overloads
from trimtab.graph.rules.slices import border, emit_borders
from trimtab.graph.rules.table import rule
from trimtab.graph.values import Call, Value, axes_of, set_argument

aten = torch.ops.aten


@rule(aten.slice_scatter.default)
def slice_scatter(call: Call) -> Value:
    """x with x[start:end] along one dimension replaced by `src`."""
    x, source = call.value("self"), call.value("src")
    at = call.axis("dim", len(x.dims))
    whole, n = x.dims[at], size(x.dims[at])
    _beside(call, x, source, at)
    if call.integer("step") != 1 or not (is_free(whole) or is_free(source.dims[at])):
        call.freeze([whole, source.dims[at]], "every so many positions of this dimension are written")
        return x.new(alive=source.alive)
    start = border(call.raw("start"), n, 0)
    end = max(border(call.raw("end"), n, n), start)
    before, part, _ = split(whole, [start, end - start, n - end], call.why("a slice falls across factors"))
    call.unify(part, source.dims[at])
    emit_borders(call, before, part, whole)
    return x.new(alive=source.alive)


@rule(aten.select_scatter.default)
def select_scatter(call: Call) -> Value:
    """x with one position of a dimension replaced by `src`, which lacks that dimension."""
    x, source = call.value("self"), call.value("src")
    at = call.axis("dim", len(x.dims))
    _beside(call, x, Value((*source.dims[:at], (), *source.dims[at:])), at)
    dim = x.dims[at]
    if is_free(dim):
        index = call.integer("index") % size(dim)
        why = call.why("one position is written across factors")
        before, one, _ = split(dim, [index, 1, size(dim) - index - 1], why)
        call.freeze([one], "one position of this dimension is written")

        def fix(node: Node, kept: Kept) -> None:
            if kept.changed(dim):
                set_argument(node, "index", kept.size(before))

        call.fix(fix)
    return x.new(alive=source.alive)


@rule(aten.diagonal_scatter.default)
def diagonal_scatter(call: Call) -> Value:
    """x with a diagonal of two dimensions replaced by `src`, whose last dimension is the diagonal."""
    x, source = call.value("self"), call.value("src")
    pair = [call.axis(name, len(x.dims)) for name in ("dim1", "dim2")]
    call.freeze([*(x.dims[i] for i in pair), source.dims[-1]], "a diagonal counts the positions of this dimension")
    rest = [dim for i, dim in enumerate(x.dims) if i not in pair]
    for mine, theirs in zip(rest, source.dims[:-1], strict=True):
        call.unify(mine, theirs)
    return x.new(alive=source.alive)


def _beside(call: Call, x: Value, source: Value, at: int) -> None:
    for i, (mine, theirs) in enumerate(zip(x.dims, source.dims, strict=True)):
        if i != at:
            call.unify(mine, theirs)


@rule(*overloads("index_fill"))
def index_fill(call: Call) -> Value:
    """One number written at positions of one dimension that are given by number."""
    x = call.value("self")
    at = call.axis("dim", len(x.dims))
    call.freeze([x.dims[at], *call.value("index").dims], "positions of this dimension are written by number")
    return x.new(alive=() if call.raw("value") == 0 else axes_of(x.dims))


@rule(aten.fill_diagonal_.default)
def fill_diagonal(call: Call) -> Value:
    """One number on the diagonal, in place."""
    x = call.value("self")
    call.freeze(x.dims, "a diagonal counts the positions of this dimension")
    return x.new(alive=axes_of(x.dims))


@rule(*overloads("masked_scatter"))
def masked_scatter(call: Call) -> Value:
    """Numbers of `source` written one after another where a mask is set."""
    raise MisfitError("a mask says how many numbers are written")


def put_by_mask(call: Call, x: Value, given: tuple[int, Node]) -> Value:
    """x[:, mask] = one number: the mask covers as many dimensions as it has, from the given one, and is cut alike."""
    first, node = given
    mask, values = call.facts.values[node], call.value("values")
    if any(size(dim) != 1 for dim in values.dims):
        raise MisfitError("a mask says how many numbers are written")
    for mine, theirs in zip(x.dims[first : first + len(mask.dims)], mask.dims, strict=True):
        call.unify(mine, theirs)
    return x.new(alive=axes_of(x.dims))
