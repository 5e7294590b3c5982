"""Sliding windows written out: the positions of a window become a factor of the channels, or a dimension."""

import torch
from torch.fx import Node

from trimtab.graph.axes import MisfitError, cut_right
from trimtab.graph.rules.table import rule
from trimtab.graph.values import Call, Value

aten = torch.ops.aten

SLIDES = "a window slides along this dimension"


@rule(aten.im2col.default)
def im2col(call: Call) -> Value:
    """[(N), C, H, W] gives [(N), C·k·k, L]: the positions of a window are the inner factor of the channels."""
    x = call.value("self")
    call.freeze(x.dims[-2:], SLIDES)
    window = call.constant(_window(call), "it numbers the positions in a window")
    return x.new([*x.dims[:-3], (*x.dims[-3], *window), call.constant(call.shape[-1])])


@rule(aten.col2im.default)
def col2im(call: Call) -> Value:
    """[(N), C·k·k, L] gives [(N), C, H, W]: what windows have in one place is added."""
    x = call.value("self")
    why = call.why("channels do not divide into windows")
    channels, window = cut_right(x.dims[-2], _window(call), why)
    call.freeze([window, x.dims[-1]], "its positions become positions in space")
    return x.new([*x.dims[:-2], channels, *(call.constant(n) for n in call.shape[-2:])])


def _window(call: Call) -> int:
    height, width = call.raw("kernel_size")
    return int(height) * int(width)


@rule(aten.unfold.default)
def unfold(call: Call) -> Value:
    """Windows along one dimension: their number stands in its place, their positions in a new last dimension."""
    x = call.value("self")
    at = call.axis("dimension", len(x.dims))
    call.freeze([x.dims[at]], SLIDES)
    return x.view([*x.dims[:at], call.constant(call.shape[at]), *x.dims[at + 1 :], call.constant(call.shape[-1])])


@rule(aten.as_strided.default, aten.as_strided_.default)
def as_strided(call: Call) -> Value:
    """Memory read at written-out strides: everything that lies in that memory keeps its shape."""
    node = call.raw("self")
    while isinstance(node, Node):
        found = call.facts.values.get(node)
        if isinstance(found, Value):
            call.freeze(found.dims, "memory is read at written-out strides")
        node = node.args[0] if _is_view(node) else None
    raise MisfitError("memory is read at written-out strides")


def _is_view(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(node.args) and any(item.alias_info is not None for item in schema.returns)
