"""Writing at positions given by number: the dimension follows the numbers, where they index one that can be cut."""

import torch
from torch.fx import Node

from trimtab.graph.axes import MisfitError, size
from trimtab.graph.rules.elementwise import overloads
from trimtab.graph.rules.pick import BY_NUMBER, indexed, meet_beside
from trimtab.graph.rules.table import rule
from trimtab.graph.rules.write import put_by_mask
from trimtab.graph.values import Call, Value, atoms, axes_of

aten = torch.ops.aten


def _only_positions(call: Call, *values: Value | None) -> None:
    """Other numbers are written over these, or these into others: they index nothing that may be cut."""
    for value in values:
        if value is not None and value.index is not None:
            call.freeze([value.index], "positions along it are mixed with other numbers")


@rule(
    aten.scatter.src,
    aten.scatter_.src,
    aten.scatter.value,
    aten.scatter_.value,
    *overloads("scatter_add"),
    indices=True,
)
def scatter(call: Call) -> Value:
    """Numbers of `src`, or one number, written or added at positions of one dimension of x."""
    x, indices, source = call.value("self"), call.value("index"), call.maybe("src")
    at = call.axis("dim", len(x.dims))
    _only_positions(call, x, source)
    meet_beside(call, x, indices, at)
    beside = [dim for i, dim in enumerate(x.dims) if i != at]
    if source is None:
        written = axes_of(beside) if call.raw("value") != 0 else set()
    else:
        for mine, theirs in zip(source.dims, indices.dims, strict=True):
            if size(mine) == size(theirs):
                call.unify(mine, theirs)
            else:
                call.freeze([mine, theirs], "only some positions of this dimension are written")
        written = atoms(source.alive) & axes_of(beside)
    return x.new(alive=written)


@rule(*overloads("index_add", "index_copy"), indices=True)
def index_add(call: Call) -> Value:
    """Slices of `source` added to, or put in place of, positions of one dimension of x."""
    x, indices, source = call.value("self"), call.value("index"), call.value("source")
    at = call.axis("dim", len(x.dims))
    _only_positions(call, x, source)
    call.look_up(x.dims[at], indices, BY_NUMBER)
    call.freeze([*indices.dims, source.dims[at]], "they are indices")
    for i, (mine, theirs) in enumerate(zip(x.dims, source.dims, strict=True)):
        if i != at:
            call.unify(mine, theirs)
    beside = [dim for i, dim in enumerate(x.dims) if i != at]
    return x.new(alive=atoms(source.alive) & axes_of(beside))


@rule(aten.index_put.default, aten.index_put_.default, indices=True)
def index_put(call: Call) -> Value:
    """x[i, j] = values: the dimensions that are not indexed are the last ones, and the same as those of `values`."""
    x, values = call.value("self"), call.value("values")
    _only_positions(call, x, values)
    given: list[Node | None] = call.raw("indices")
    masks = [(i, item) for i, item in enumerate(given) if item is not None and item.meta["val"].dtype is torch.bool]
    if masks and len([item for item in given if item is not None]) == 1:
        return put_by_mask(call, x, masks[0])
    at = indexed(call, x, given)
    if at != list(range(len(at))):
        raise MisfitError("positions of a dimension behind a whole one are written by number")
    rest = x.dims[len(at) :]
    lead, tail = (values.dims[: -len(rest)], values.dims[-len(rest) :]) if rest else (values.dims, ())
    call.freeze(lead, "they are indices")
    for mine, theirs in zip(rest, tail, strict=True):
        if size(mine) == size(theirs):
            call.unify(mine, theirs)
        else:
            call.freeze([mine], "one number is written to every position of this dimension")
    return x.new(alive=atoms(values.alive) & axes_of(rest))
