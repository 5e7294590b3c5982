"""Concatenation, stacking and padding: dimensions become sums of segments."""

import torch
from torch.fx import Node

from trimtab.graph.axes import Axis, Dim, MisfitError, is_free, join, size
from trimtab.graph.kept import Kept
from trimtab.graph.rules.table import rule
from trimtab.graph.values import Call, Value, axes_of, bind, set_argument

aten = torch.ops.aten


@rule(aten.cat.default, aten.concat.default, aten.concatenate.default)
def cat(call: Call) -> Value:
    """Segments along one dimension; the others are the same."""
    values = call.list("tensors")
    rank = len(call.shape)
    values = [value for value in values if len(value.dims) == rank]
    if sum(size(value.dims[call.axis("dim", rank)]) for value in values) != call.shape[call.axis("dim", rank)]:
        raise MisfitError("a concatenation skips a tensor")
    return _joined(call, values, call.axis("dim", rank))


@rule(aten.vstack.default, aten.row_stack.default, aten.hstack.default, aten.dstack.default, aten.column_stack.default)
def stack_along(call: Call) -> Value:
    """Segments along dimension 0, 1 or 2. Raises: MisfitError for tensors that lack it."""
    values = call.list("tensors")
    at = 0 if "vstack" in call.operator or "row_stack" in call.operator else 2 if "dstack" in call.operator else 1
    if any(len(value.dims) <= max(at, 1) for value in values):
        raise MisfitError("vectors are stacked")
    return _joined(call, values, at)


def _joined(call: Call, values: list[Value], at: int) -> Value:
    for value in values[1:]:
        for i, (mine, first) in enumerate(zip(value.dims, values[0].dims, strict=True)):
            if i != at:
                call.unify(first, mine)
    joined = join([value.dims[at] for value in values])
    return Value((*values[0].dims[:at], joined, *values[0].dims[at + 1 :]), _alive(values))


@rule(aten.stack.default)
def stack(call: Call) -> Value:
    """A new dimension of one position a tensor."""
    values = call.list("tensors")
    for value in values[1:]:
        for mine, first in zip(value.dims, values[0].dims, strict=True):
            call.unify(first, mine)
    at = call.axis("dim", len(call.shape))
    new = call.constant(len(values))
    return Value((*values[0].dims[:at], new, *values[0].dims[at:]), _alive(values))


def _alive(values: list[Value]) -> set[Axis]:
    return set().union(*(value.alive for value in values))


@rule(aten.constant_pad_nd.default, aten.pad.default)
def pad(call: Call) -> Value:
    """Constants around a dimension: fresh segments, which may be cut when they meet a layer's channels."""
    x = call.value("self")
    if call.arguments.get("mode", "constant") != "constant":
        return _mirror(call, x)
    pads = call.raw("pad")
    if any(not isinstance(n, int) for n in pads):
        raise MisfitError("padding is computed")
    dims, around = list(x.dims), {}
    for i in range(len(pads) // 2):
        at = len(dims) - 1 - i
        low, high = pads[2 * i], pads[2 * i + 1]
        if not low and not high:
            continue
        if not is_free(dims[at]):
            dims[at] = call.constant(call.shape[at])
            continue
        if low < 0 or high < 0:
            raise MisfitError("padding is negative")
        segments = [call.fresh(n) if n else None for n in (low, high)]
        around[i] = segments
        parts = [segments[0], dims[at], segments[1]]
        dims[at] = join([part for part in parts if part is not None])
    _emit_pads(call, around)
    new = [part for pair in around.values() for part in pair if part is not None]
    return x.new(dims, alive=axes_of(new) if call.raw("value") else ())


def _emit_pads(call: Call, around: dict[int, list[Dim | None]]) -> None:
    def fix(node: Node, kept: Kept) -> None:
        pads = list(bind(node)["pad"])
        for i, pair in around.items():
            for side, part in enumerate(pair):
                if part is not None:
                    pads[2 * i + side] = kept.size(part)
        if pads != list(bind(node)["pad"]):
            set_argument(node, "pad", pads)

    if around:
        call.fix(fix)


@rule(
    aten.reflection_pad1d.default,
    aten.reflection_pad2d.default,
    aten.reflection_pad3d.default,
    aten.replication_pad1d.default,
    aten.replication_pad2d.default,
    aten.replication_pad3d.default,
)
def mirror_pad(call: Call) -> Value:
    """Padding by neighbours."""
    return _mirror(call, call.value("self"))


def _mirror(call: Call, x: Value) -> Value:
    first = len(x.dims) - len(call.raw("pad" if "pad" in call.arguments else "padding")) // 2
    call.freeze(x.dims[first:], "padding copies positions of this dimension")
    return x.new([*x.dims[:first], *(call.constant(n) for n in call.shape[first:])])
