"""Views, permutations and copies: the same numbers under other dimensions."""

from collections.abc import Sequence

import torch
from torch.fx import Node

from trimtab.graph.axes import Axis, Dim, MisfitError, coalesce, cut_right, size
from trimtab.graph.kept import Kept
from trimtab.graph.rules.elementwise import broadcast
from trimtab.graph.rules.table import rule
from trimtab.graph.sizes import emit_sizes
from trimtab.graph.values import Call, Origin, Value, axes_of, bind

aten = torch.ops.aten

DIAGONAL = "a diagonal counts the positions of this dimension"


@rule(
    aten.to.dtype,
    aten.to.device,
    aten.to.other,
    aten.to.dtype_layout,
    aten._to_copy.default,
    aten.clone.default,
    aten.alias.default,
    aten.positive.default,
    aten.detach.default,
    aten.detach_.default,
    aten.contiguous.default,
    aten.lift_fresh_copy.default,
    aten.type_as.default,
)
def same(call: Call) -> Value:
    """The same numbers and dimensions."""
    x = call.value(next(iter(call.arguments)))
    return Value(x.dims, x.alive, x.origin)


@rule(aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten._reshape_alias.default)
def view(call: Call) -> Value:
    """Dimensions re-cut from right to left; written-out sizes follow."""
    x = call.value("self")
    dims = regroup(call, x.dims, call.shape)
    emit_sizes(call, "shape" if "shape" in call.arguments else "size", dims)
    out = x.view(dims)
    out.origin = _same_in_front(x, dims)
    return out


def _same_in_front(x: Value, dims: Sequence[Dim]) -> tuple[Origin | None, ...]:
    """The origins of the leading dimensions that a view leaves as they are."""
    found: list[Origin | None] = [None] * len(dims)
    for i, (origin, mine, theirs) in enumerate(zip(x.origin, x.dims, dims, strict=False)):
        if size(mine) != size(theirs):
            break
        found[i] = origin
    return tuple(found)


@rule(aten.atleast_1d.default, aten.atleast_2d.default, aten.atleast_3d.default)
def at_least(call: Call) -> Value:
    """Dimensions of size 1 are added: in front, and for the third one behind."""
    x = call.value("self")
    missing = len(call.shape) - len(x.dims)
    behind = 1 if missing and "3d" in call.operator else 0
    behind = behind if x.dims else 0
    return x.view([*((),) * (missing - behind), *x.dims, *((),) * behind])


@rule(aten.view_as.default, aten.reshape_as.default)
def view_as(call: Call) -> Value:
    """Dimensions re-cut like those of another tensor."""
    x, other = call.value("self"), call.value("other")
    dims = regroup(call, x.dims, call.shape)
    for mine, theirs in zip(dims, other.dims, strict=True):
        call.unify(mine, theirs)
    return x.view(dims)


@rule(aten.flatten.using_ints)
def flatten(call: Call) -> Value:
    """Dimensions start..end become one."""
    x = call.value("self")
    if not x.dims:
        return x.view([()])
    start, end = call.axis("start_dim", len(x.dims)), call.axis("end_dim", len(x.dims))
    joined = tuple(axis for dim in x.dims[start : end + 1] for axis in dim)
    origin = (*x.origin[:start], None, *x.origin[end + 1 :]) if x.origin and end > start else x.origin
    out = x.view([*x.dims[:start], joined, *x.dims[end + 1 :]])
    out.origin = origin
    return out


@rule(aten.ravel.default)
def ravel(call: Call) -> Value:
    """All dimensions become one."""
    x = call.value("self")
    return x.view([tuple(axis for dim in x.dims for axis in dim)])


@rule(aten.unflatten.int)
def unflatten(call: Call) -> Value:
    """One dimension becomes several."""
    x = call.value("self")
    at = call.axis("dim", len(x.dims))
    count = len(call.raw("sizes"))
    parts = regroup(call, x.dims[at : at + 1], call.shape[at : at + count])
    emit_sizes(call, "sizes", parts)
    return x.view([*x.dims[:at], *parts, *x.dims[at + 1 :]])


def regroup(call: Call, dims: Sequence[Dim], shape: Sequence[int]) -> list[Dim]:
    """The dimensions of a view with sizes `shape`. Raises: MisfitError when factors do not fit."""
    rest: Dim = coalesce(axis for dim in dims for axis in dim)
    why = call.why("a view cuts across the factors of this dimension")
    if size(rest) == 0:
        raise MisfitError("a tensor without elements is viewed")
    out: list[Dim] = []
    for n in reversed(shape):
        rest, part = cut_right(rest, n, why)
        out.insert(0, part)
    return out


@rule(aten.permute.default)
def permute(call: Call) -> Value:
    """Dimensions in another order."""
    x = call.value("self")
    return _ordered(x, [d % len(x.dims) for d in call.raw("dims")])


@rule(aten.transpose.int, aten.swapaxes.default, aten.swapdims.default)
def transpose(call: Call) -> Value:
    """Two dimensions change places."""
    x = call.value("self")
    order = list(range(len(x.dims)))
    names = [name for name in call.arguments if name != "self"]
    a, b = (call.axis(name, len(order)) for name in names)
    order[a], order[b] = order[b], order[a]
    return _ordered(x, order)


@rule(aten.movedim.int, aten.movedim.intlist, aten.moveaxis.int, aten.moveaxis.intlist)
def movedim(call: Call) -> Value:
    """Dimensions at `source` move to `destination`; the others keep their order."""
    x = call.value("self")
    source, destination = (
        [d % len(x.dims) for d in (raw if isinstance(raw, (list, tuple)) else [raw])]
        for raw in (call.raw("source"), call.raw("destination"))
    )
    others = iter([d for d in range(len(x.dims)) if d not in source])
    moved = dict(zip(destination, source, strict=True))
    return _ordered(x, [moved[d] if d in moved else next(others) for d in range(len(x.dims))])


@rule(aten.mT.default, aten.adjoint.default, aten.mH.default)
def matrices_transposed(call: Call) -> Value:
    """The last two dimensions change places."""
    x = call.value("self")
    rank = len(x.dims)
    return _ordered(x, [*range(rank - 2), rank - 1, rank - 2])


@rule(aten.t.default, aten.numpy_T.default)
def transposed(call: Call) -> Value:
    """All dimensions in reverse order."""
    x = call.value("self")
    return _ordered(x, list(reversed(range(len(x.dims)))))


def _ordered(x: Value, order: Sequence[int]) -> Value:
    origin = tuple(x.origin[d] for d in order) if x.origin else ()
    return Value(tuple(x.dims[d] for d in order), x.alive, origin)


@rule(aten.squeeze.default)
def squeeze(call: Call) -> Value:
    """Dimensions of size 1 go."""
    x = call.value("self")
    return _squeezed(call, x, [i for i, dim in enumerate(x.dims) if size(dim) == 1])


@rule(aten.squeeze.dim, aten.squeeze.dims)
def squeeze_dim(call: Call) -> Value:
    """The named dimensions go, where they have size 1."""
    x = call.value("self")
    raw = call.raw("dim")
    named = {d % max(len(x.dims), 1) for d in (raw if isinstance(raw, (list, tuple)) else [raw])}
    return _squeezed(call, x, [i for i, dim in enumerate(x.dims) if i in named and size(dim) == 1])


def _squeezed(call: Call, x: Value, gone: Sequence[int]) -> Value:
    left = [dim for i, dim in enumerate(x.dims) if i not in gone]

    def fix(node: Node, kept: Kept) -> None:
        # A dimension that a cut leaves with one position must not be squeezed with the others.
        if any(kept.changed(dim) and kept.size(dim) == 1 for dim in left):
            source = bind(node)["self"]
            node.target, node.args, node.kwargs = aten.squeeze.dims, (source, list(gone)), {}

    call.fix(fix)
    return x.view(left)


@rule(aten.unsqueeze.default)
def unsqueeze(call: Call) -> Value:
    """A new dimension of size 1."""
    x = call.value("self")
    at = call.axis("dim", len(x.dims) + 1)
    origin = (*x.origin[:at], None, *x.origin[at:]) if x.origin else ()
    return Value((*x.dims[:at], (), *x.dims[at:]), x.alive, origin)


@rule(aten.expand.default, aten.broadcast_to.default)
def expand(call: Call) -> Value:
    """Dimensions of size 1 are repeated to written-out sizes, which follow a cut."""
    x = call.value("self")
    shape = call.shape
    padded = ((),) * (len(shape) - len(x.dims)) + x.dims
    dims, stretched = [], []
    for n, mine, raw in zip(shape, padded, call.raw("size"), strict=True):
        if size(mine) == n:
            dims.append(mine)
            continue
        dims.append(call.fresh(n) if isinstance(raw, int) else call.constant(n))
        stretched.append(dims[-1])
    emit_sizes(call, "size", dims)
    return _stretched(x, dims, axes_of(stretched))


@rule(aten.broadcast_tensors.default)
def broadcast_tensors(call: Call) -> list[Value]:
    """Dimensions of size 1 are repeated like each other's."""
    values = call.list("tensors")
    dims = broadcast(call, values, call.shape)
    out = []
    for value in values:
        padded = ((),) * (len(dims) - len(value.dims)) + value.dims
        repeated = [dim for dim, mine in zip(dims, padded, strict=True) if size(dim) != size(mine)]
        out.append(_stretched(value, dims, axes_of(repeated)))
    return out


@rule(aten.expand_as.default)
def expand_as(call: Call) -> Value:
    """Dimensions of size 1 are repeated like another tensor's."""
    x, other = call.value("self"), call.value("other")
    padded = ((),) * (len(other.dims) - len(x.dims)) + x.dims
    stretched = []
    for mine, theirs in zip(padded, other.dims, strict=True):
        if size(mine) == size(theirs):
            call.unify(mine, theirs)
        else:
            stretched.append(theirs)
    return _stretched(x, other.dims, axes_of(stretched))


def _stretched(x: Value, dims: Sequence[Dim], alive: set[Axis]) -> Value:
    if alive:
        return x.new(dims, alive=alive)
    return x.view(dims)


@rule(aten.diagonal.default)
def diagonal(call: Call) -> Value:
    """A diagonal of two dimensions, as a new last one."""
    x = call.value("self")
    pair = [call.axis(name, len(x.dims)) for name in ("dim1", "dim2")]
    call.freeze([x.dims[i] for i in pair], DIAGONAL)
    return x.view([*(dim for i, dim in enumerate(x.dims) if i not in pair), call.constant(call.shape[-1])])


@rule(aten.diag.default)
def diag(call: Call) -> Value:
    """The diagonal matrix of a vector, which is cut with it, or the diagonal of a matrix."""
    x = call.value("self")
    if len(x.dims) == 1 and not call.raw("diagonal"):
        return x.new([x.dims[0], x.dims[0]])
    call.freeze(x.dims, DIAGONAL)
    return x.new([call.constant(n) for n in call.shape])


@rule(aten.diag_embed.default)
def diag_embed(call: Call) -> Value:
    """The last dimension on the diagonal of two new ones, which are cut with it where nothing is shifted."""
    x = call.value("self")
    if call.raw("offset"):
        call.freeze(x.dims[-1:], DIAGONAL)
    pair = [call.axis(name, len(call.shape)) for name in ("dim1", "dim2")]
    new = call.constant(call.shape[pair[0]], DIAGONAL) if call.raw("offset") else x.dims[-1]
    lead = iter(x.dims[:-1])
    return x.new([new if i in pair else next(lead) for i in range(len(call.shape))])
