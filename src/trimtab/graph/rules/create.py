"""Sizes, and tensors made from sizes."""

import operator
from collections.abc import Sequence

import torch
from torch.fx import Node

from trimtab.graph.axes import MisfitError
from trimtab.graph.kept import Kept
from trimtab.graph.rules.table import rule
from trimtab.graph.sizes import emit_sizes
from trimtab.graph.values import Call, Count, Value, axes_of, set_argument

aten = torch.ops.aten


@rule(aten.sym_size.int)
def sym_size(call: Call) -> Count:
    """The size of a dimension; after a cut it is the new one by itself."""
    x = call.value("self")
    return Count(x.dims[call.axis("dim", len(x.dims))])


@rule(operator.getitem)
def getitem(call: Call) -> object:
    """One of several outputs."""
    found = call.facts.values[call.raw("0")]
    if not isinstance(found, list):
        raise TypeError("getitem of something that is not a list of tensors")
    return found[call.integer("1")]


@rule(
    aten.zeros.default,
    aten.ones.default,
    aten.full.default,
    aten.new_zeros.default,
    aten.new_ones.default,
    aten.new_full.default,
    aten.empty.memory_format,
    aten.new_empty.default,
)
def filled(call: Call) -> Value:
    """A constant tensor of a written-out shape, which is written anew after a cut."""
    shape_name = "shape" if "shape" in call.arguments else "size"
    dims = [call.fresh(n) if isinstance(raw, int) else call.constant(n) for raw, n in _sizes(call, shape_name)]
    emit_sizes(call, shape_name, dims)
    return Value(tuple(dims), set() if "zeros" in call.operator else axes_of(dims))


def _sizes(call: Call, name: str) -> Sequence[tuple[object, int]]:
    return list(zip(call.raw(name), call.shape, strict=True))


@rule(aten.arange.default, aten.arange.start, aten.arange.start_step)
def arange(call: Call) -> Value:
    """0, 1, …, n - 1: every number is its own position. Other ranges stay as they are."""
    whole = call.arguments.get("start", 0) == 0 and call.arguments.get("step", 1) == 1
    if not whole or not isinstance(call.raw("end"), int):
        return Value((call.constant(call.shape[0]),))
    dim = call.fresh(call.shape[0])

    def fix(node: Node, kept: Kept) -> None:
        if kept.changed(dim):
            set_argument(node, "end", kept.size(dim))

    call.fix(fix)
    return Value((dim,), axes_of([dim]), index=dim)


@rule(
    aten.eye.default,
    aten.eye.m,
    aten.linspace.default,
    aten.logspace.default,
    aten.tril_indices.default,
    aten.triu_indices.default,
)
def counted(call: Call) -> Value:
    """Numbers that are computed from their positions."""
    raise MisfitError("its numbers count positions")


@rule(aten.rand.default, aten.randn.default, aten.randint.default, aten.randint.low, aten.bernoulli.default)
def drawn(call: Call) -> Value:
    """Random numbers: a proof would draw others."""
    raise MisfitError("its numbers are random in eval mode too, so that nothing can be proved")


@rule(aten.empty_like.default)
def empty_like(call: Call) -> Value:
    """Numbers of no meaning in the shape of another tensor, to be written over."""
    dims = call.value("self").dims
    return Value(dims, axes_of(dims))


@rule(aten.zeros_like.default)
def zeros_like(call: Call) -> Value:
    """Zeros in the shape of another tensor."""
    return Value(call.value("self").dims)


@rule(aten.ones_like.default, aten.full_like.default, aten.rand_like.default, aten.randn_like.default)
def filled_like(call: Call) -> Value:
    """Numbers that are not zero in the shape of another tensor."""
    dims = call.value("self").dims
    return Value(dims, axes_of(dims))
