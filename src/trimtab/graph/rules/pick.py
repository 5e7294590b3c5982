"""Positions picked, moved or ordered: by numbers that index the dimension it can be cut, otherwise it is frozen."""

import torch
from torch.fx import Node

from trimtab.graph.axes import Dim, is_free, size
from trimtab.graph.limits import Limit
from trimtab.graph.rules.table import rule
from trimtab.graph.values import Call, Hidden, Origin, Value, atoms, axes_of

aten = torch.ops.aten

BY_NUMBER = "positions of this dimension are picked by number"
CHOSEN = "one or some of its positions are chosen by value, among the kept ones only"


@rule(aten.flip.default, aten.roll.default, aten.rot90.default, aten.fliplr.default, aten.flipud.default)
def moved(call: Call) -> Value:
    """Positions change places along the named dimensions (all of them, where a roll names none)."""
    x = call.value("self")
    flipped = {"aten.fliplr.default": [1], "aten.flipud.default": [0]}.get(call.operator)
    named = flipped or call.raw("dims") or range(len(x.dims))
    if "roll" in call.operator and not call.raw("dims"):
        call.freeze(x.dims, "positions of a flattened tensor are rolled")
    at = {d % len(x.dims) for d in named}
    call.freeze([x.dims[i] for i in at], "positions of this dimension change places")
    return x.new([call.constant(call.shape[i]) if i in at else dim for i, dim in enumerate(x.dims)])


@rule(aten.tril.default, aten.triu.default, aten.tril_.default, aten.triu_.default)
def triangle(call: Call) -> Value:
    """Zeros above or below a diagonal of the last two dimensions."""
    x = call.value("self")
    call.freeze(x.dims[-2:], "a triangle counts the positions of this dimension")
    return x.new()


@rule(aten.index.Tensor, indices=True)
def index(call: Call) -> Value:
    """x[i, :, j]: the shape of the indices stands in place of the indexed dimensions, or first."""
    x = call.value("self")
    at = indexed(call, x, call.raw("indices"))
    rest = [i for i in range(len(x.dims)) if i not in at]
    together = at == list(range(at[0], at[-1] + 1))
    first = at[0] if together else 0
    picked = [call.constant(n) for n in call.shape[first : first + len(call.shape) - len(rest)]]
    return _picked(call, x, [*rest[:first], *picked, *rest[first:]])


def indexed(call: Call, x: Value, indices: list[Node | None]) -> list[int]:
    """The dimensions of `x` that index tensors pick from. Raises: NotImplementedError for a mask."""
    at = [i for i, item in enumerate(indices) if item is not None]
    for i in at:
        item = indices[i]
        found = call.facts.values.get(item) if isinstance(item, Node) else None
        if not isinstance(item, Node) or not isinstance(found, Value) or item.meta["val"].dtype is torch.bool:
            raise NotImplementedError("positions are picked by a mask")
        call.look_up(x.dims[i], found, BY_NUMBER)
        call.freeze(found.dims, "they are indices")
        _units(call, x, i)
    return at


def _units(call: Call, x: Value, at: int) -> None:
    """Units that numbers pick of a constant tensor are its own: a stack of experts makes them."""
    if x.const and is_free(x.dims[at]):
        call.role(x, at, "out")


def _picked(call: Call, x: Value, layout: list[int | Dim]) -> Value:
    """What is picked of `x`: numbers stand for its dimensions, dimensions for those of the indices.

    Of a constant tensor it stays what the tensor is, a layer's weight: a router picks among them.
    """
    dims = [x.dims[item] if isinstance(item, int) else item for item in layout]
    origin: list[Origin | None] = []
    if x.origin:
        origin = [x.origin[item] if isinstance(item, int) else None for item in layout]
    alive = atoms(x.alive) & axes_of(x.dims[item] for item in layout if isinstance(item, int))
    return Value(tuple(dims), alive, tuple(origin), const=x.const, index=x.index)


@rule(aten.index_select.default, indices=True)
def index_select(call: Call) -> Value:
    """Positions of one dimension picked by number."""
    x, indices = call.value("self"), call.value("index")
    at = call.axis("dim", len(x.dims))
    call.look_up(x.dims[at], indices, BY_NUMBER)
    call.freeze(indices.dims, "they are indices")
    _units(call, x, at)
    return _picked(call, x, [call.constant(call.shape[i]) if i == at else i for i in range(len(x.dims))])


@rule(aten.gather.default, indices=True)
def gather(call: Call) -> Value:
    """Positions of one dimension picked by an index tensor that has the output's shape."""
    x, indices = call.value("self"), call.value("index")
    at = call.axis("dim", len(x.dims))
    meet_beside(call, x, indices, at)
    _units(call, x, at)
    out = _picked(call, x, [indices.dims[i] if i == at else i for i in range(len(x.dims))])
    return Value(indices.dims, out.alive, out.origin, const=x.const, index=x.index)


def meet_beside(call: Call, x: Value, indices: Value, at: int) -> None:
    """Indices pick from dimension `at` of `x`; the other dimensions are the same, or only a part of them is there."""
    call.look_up(x.dims[at], indices, BY_NUMBER)
    call.freeze([indices.dims[at]], "they are indices")
    for i, (mine, theirs) in enumerate(zip(x.dims, indices.dims, strict=True)):
        if i != at and size(mine) == size(theirs):
            call.unify(mine, theirs)
        elif i != at:
            call.freeze([mine, theirs], "only some positions of this dimension are picked")


@rule(aten.sort.default, aten.sort.stable, indices=True)
def ordered(call: Call) -> list[Value]:
    """Values in order along one dimension, and where they were. Kept indices keep their order."""
    x = call.value("self")
    at = call.axis("dim", len(x.dims))
    call.freeze([x.dims[at]], "positions of this dimension are ordered by value")
    out = x.new([call.constant(call.shapes[0][i]) if i == at else dim for i, dim in enumerate(x.dims)])
    out.index = x.index
    return [out, out.new(alive=axes_of(out.dims))]


@rule(aten.topk.default)
def topk(call: Call) -> list[Value]:
    """The k largest or smallest along one dimension, and where they were: at least k must be kept."""
    x = call.value("self")
    at = call.axis("dim", len(x.dims))
    dims = [call.constant(call.shapes[0][i]) if i == at else dim for i, dim in enumerate(x.dims)]
    _choose(call, x, at, call.raw("largest"))
    if is_free(x.dims[at]):
        n = call.integer("k")
        call.limit(x.dims[at], Limit(at_least=n), f"{n} of its positions are chosen, and no cut leaves as many")
    return [x.new(dims), _where(x, at, dims)]


@rule(aten.max.dim, aten.min.dim)
def extreme(call: Call) -> list[Value]:
    """The largest or smallest along one dimension, and where it was."""
    x = call.value("self")
    at = call.axis("dim", len(x.dims))
    dims = _without(call, x, at)
    _choose(call, x, at, "max" in call.operator)
    return [x.new(dims), _where(x, at, dims)]


@rule(aten.argmax.default, aten.argmin.default)
def where_extreme(call: Call) -> Value:
    """Where the largest or smallest is along one dimension, or of all numbers."""
    x = call.value("self")
    if call.raw("dim") is None:
        call.freeze(x.dims, "the largest or smallest of all numbers is found")
        return Value(tuple(call.constant(n) for n in call.shape))
    at = call.axis("dim", len(x.dims))
    _choose(call, x, at, "argmax" in call.operator)
    return _where(x, at, _without(call, x, at))


def _without(call: Call, x: Value, at: int) -> list[Dim]:
    gone: list[Dim] = [()] if call.raw("keepdim") else []
    return [*x.dims[:at], *gone, *x.dims[at + 1 :]]


def _choose(call: Call, x: Value, at: int, largest: bool) -> None:
    """State that a choice among the positions of a dimension is not exact, and what its proof hides."""
    if not is_free(x.dims[at]):
        return
    given = call.raw("self")
    if not (isinstance(given, Node) and given.meta["val"].dtype.is_floating_point):
        call.freeze([x.dims[at]], "its positions are chosen by integers")
        return
    call.inexact([x.dims[at]], CHOSEN)
    call.facts.hidden[call.node] = Hidden("self", x.dims, at, float("-inf") if largest else float("inf"))


def _where(x: Value, at: int, dims: list[Dim]) -> Value:
    """Positions along a dimension that may be cut are an index of it."""
    return Value(tuple(dims), axes_of(dims), index=x.dims[at] if is_free(x.dims[at]) else None)
