"""Positions picked, moved or ordered: the dimension they belong to is frozen, the others pass."""

import torch
from torch.fx import Node

from trimtab.graph.axes import Dim, size
from trimtab.graph.rules.table import rule
from trimtab.graph.values import Call, Value, axes_of

aten = torch.ops.aten


@rule(aten.flip.default, aten.roll.default)
def moved(call: Call) -> Value:
    """Positions change places along the named dimensions (all of them, where a roll names none)."""
    x = call.value("self")
    named = call.raw("dims") or range(len(x.dims))
    if "roll" in call.operator and not call.raw("dims"):
        call.freeze(x.dims, "positions of a flattened tensor are rolled")
    call.freeze([x.dims[d % len(x.dims)] for d in named], "positions of this dimension change places")
    return x.new()


@rule(aten.tril.default, aten.triu.default, aten.tril_.default, aten.triu_.default)
def triangle(call: Call) -> Value:
    """Zeros above or below a diagonal of the last two dimensions."""
    x = call.value("self")
    call.freeze(x.dims[-2:], "a triangle counts the positions of this dimension")
    return x.new()


@rule(aten.index.Tensor)
def index(call: Call) -> Value:
    """x[i, :, j]: indexed dimensions are frozen; the shape of the indices stands in their place, or first."""
    x = call.value("self")
    given = [*call.raw("indices"), *[None] * (len(x.dims) - len(call.raw("indices")))]
    if len(given) != len(x.dims) or any(
        isinstance(item, Node) and item.meta["val"].dtype is torch.bool for item in given
    ):
        raise NotImplementedError("positions are picked by a mask")
    at = [i for i, item in enumerate(given) if item is not None]
    call.freeze([x.dims[i] for i in at], "positions of this dimension are picked by number")
    call.freeze([dim for item in given if isinstance(item, Node) for dim in _dims(call, item)], "they are indices")
    rest = [dim for i, dim in enumerate(x.dims) if i not in at]
    together = at == list(range(at[0], at[-1] + 1))
    first = at[0] if together else 0
    picked = [call.constant(n) for n in call.shape[first : first + len(call.shape) - len(rest)]]
    return x.new([*rest[:first], *picked, *rest[first:]])


def _dims(call: Call, node: Node) -> tuple[Dim, ...]:
    found = call.facts.values.get(node)
    return found.dims if isinstance(found, Value) else ()


@rule(aten.index_select.default)
def index_select(call: Call) -> Value:
    """Positions of one dimension picked by number."""
    x = call.value("self")
    at = call.axis("dim", len(x.dims))
    call.freeze([x.dims[at], *call.value("index").dims], "positions of this dimension are picked by number")
    return x.new([call.constant(call.shape[i]) if i == at else dim for i, dim in enumerate(x.dims)])


@rule(aten.gather.default)
def gather(call: Call) -> Value:
    """Positions of one dimension picked by an index tensor that has the output's shape."""
    x, indices = call.value("self"), call.value("index")
    at = call.axis("dim", len(x.dims))
    call.freeze([x.dims[at], indices.dims[at]], "positions of this dimension are picked by number")
    for i, (mine, theirs) in enumerate(zip(x.dims, indices.dims, strict=True)):
        if i != at and size(mine) == size(theirs):
            call.unify(mine, theirs)
        elif i != at:
            call.freeze([mine, theirs], "only some positions of this dimension are picked")
    return Value(indices.dims, x.alive | axes_of(indices.dims))


@rule(aten.sort.default, aten.sort.stable, aten.topk.default)
def ordered(call: Call) -> list[Value]:
    """Values in order along one dimension, and where they were."""
    x = call.value("self")
    at = call.axis("dim", len(x.dims))
    call.freeze([x.dims[at]], "positions of this dimension are ordered by value")
    out = x.new([call.constant(call.shapes[0][i]) if i == at else dim for i, dim in enumerate(x.dims)])
    return [out, out.new(alive=axes_of(out.dims))]
