"""What routers make of the positions that they choose: masks, counts of tokens an expert, grouped products."""

import torch
from torch.fx import Node

from trimtab.graph.axes import MisfitError, is_free, size
from trimtab.graph.kept import Kept
from trimtab.graph.limits import Limit
from trimtab.graph.rules.contract import NOT_ZERO
from trimtab.graph.rules.table import rule
from trimtab.graph.values import Call, Value, atoms, axes_of, bind, set_argument

aten = torch.ops.aten


@rule(aten.one_hot.default, indices=True)
def one_hot(call: Call) -> Value:
    """[*] integers below E become [*, E]: 1 at the position that they index. No removed position is ever chosen."""
    x, n = call.value("self"), call.integer("num_classes")
    if x.index is None:
        return Value((*x.dims, call.constant(n)), axes_of(x.dims))
    hot = x.index
    if size(hot) != n:
        raise MisfitError(f"numbers below {size(hot)} are written as {n} classes")

    def fix(node: Node, kept: Kept) -> None:
        if kept.changed(hot):
            set_argument(node, "num_classes", kept.size(hot))

    call.fix(fix)
    return Value((*x.dims, hot), axes_of(x.dims))


@rule(aten.histc.default, indices=True)
def counts(call: Call) -> Value:
    """How often each position is chosen: bins of width 1 from 0 to E - 1. No removed position is ever chosen."""
    x, bins = call.value("self"), call.integer("bins")
    call.freeze(x.dims, "its positions are counted")
    if x.index is None:
        return Value((call.constant(bins),))
    hit = x.index
    if (size(hit), call.raw("min"), call.raw("max")) != (bins, 0, bins - 1):
        raise MisfitError(f"a histogram of numbers below {size(hit)} has other bins than one a number")

    def fix(node: Node, kept: Kept) -> None:
        if kept.changed(hit):
            set_argument(node, "bins", kept.size(hit))
            set_argument(node, "max", kept.size(hit) - 1)

    call.fix(fix)
    return Value((hit,))


@rule(aten.cumsum.default)
def running_sum(call: Call) -> Value:
    """Sums of everything up to a position: what is zero at removed positions adds nothing to the kept ones."""
    x = call.value("self")
    at = call.axis("dim", len(x.dims))
    along = axes_of([x.dims[at]])
    if atoms(x.alive) & along:
        call.freeze([x.dims[at]], "positions of this dimension depend on one another")
    call.contract(x.dims[at], (x,), NOT_ZERO)
    return x.new(alive=along)


@rule(aten._grouped_mm.default)
def aligned_grouped_product(call: Call) -> Value:
    """torch's own, whose rows must be of whole 16 bytes."""
    step = max(16 // call.node.meta["val"].element_size(), 1)
    out = grouped_product(call)
    for dim in (call.value("self").dims[1], out.dims[1]):
        call.limit(dim, Limit(multiple_of=step), f"rows must be of whole 16 bytes, {step} numbers")
    return out


@rule("trimtab.grouped_mm.default", "transformers.grouped_mm_fallback.default")
def grouped_product(call: Call) -> Value:
    """[S, I] with weights [E, I, O] gives [S, O]: rows up to offsets[e] belong to matrix e.

    A removed matrix must have no rows, so the offsets must be a running sum of counts, which are zero there.
    """
    names = list(call.arguments)[:3]
    x, weight, offsets = (call.value(name) for name in names)
    if len(x.dims) != 2 or len(weight.dims) != 3 or call.has("bias"):
        raise NotImplementedError("a grouped product other than of rows with a stack of matrices")
    call.freeze([x.dims[0]], "rows are told apart by offsets")
    call.unify(offsets.dims[0], weight.dims[0])
    if is_free(weight.dims[0]) and not _is_running_sum(call.raw(names[2])):
        call.freeze([weight.dims[0]], "offsets that are no running sum tell rows apart")
    call.unify(x.dims[1], weight.dims[1])
    call.contract(x.dims[1], (x, weight), NOT_ZERO)
    call.role(weight, 0, "out")
    call.role(weight, 1, "in")
    call.produce(weight, 2)
    return Value((x.dims[0], weight.dims[2]), atoms(weight.alive) & axes_of(weight.dims[2:]))


def _is_running_sum(node: object) -> bool:
    """Whether these are sums as `running_sum` makes them, which nobody can have written over."""
    while isinstance(node, Node) and all(str(user.target) in _READ_ONLY for user in node.users):
        if node.target is aten.cumsum.default:
            return True
        node = bind(node)["self"] if node.target in _CASTS else None
    return False


_CASTS = (aten.to.dtype, aten._to_copy.default)
_READ_ONLY = {
    "aten.to.dtype",
    "aten._to_copy.default",
    "aten._grouped_mm.default",
    "trimtab.grouped_mm.default",
    "transformers.grouped_mm_fallback.default",
}
