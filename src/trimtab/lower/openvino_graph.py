"""A folded graph as OpenVINO executes it."""

from typing import Any

import torch
from torch.fx import GraphModule, Node

from trimtab.graph.copying import copy_module, described
from trimtab.graph.layers import OPERATORS as LAYERS
from trimtab.quant.operators import AVERAGE_POOLS
from trimtab.quant.ops import DEQUANTIZE, QUANTIZE

aten = torch.ops.aten

_ADDITIONS: set[object] = {aten.add.Tensor, aten.add_.Tensor}
_ROUNDING: set[object] = {QUANTIZE, aten.clamp.default, DEQUANTIZE}


def as_executed(folded: GraphModule) -> GraphModule:
    """A copy in which convolutions add before they round, and padding that is averaged is an operator of its own."""
    copy = copy_module(folded)
    order = {node: place for place, node in enumerate(copy.graph.nodes)}
    for node in list(copy.graph.nodes):
        if node.target in _ADDITIONS:
            _leave_unrounded(copy, node, order)
        elif node.target in AVERAGE_POOLS:
            _pad_before(copy, node)
    copy.graph.eliminate_dead_code()
    copy.recompile()
    return copy


def _leave_unrounded(module: GraphModule, addition: Node, order: dict[Node, int]) -> None:
    """The runtime adds to what a convolution accumulated, clamped to its range: of two convolutions, the later one."""
    found = ((place, _only_summed(addition.args[place])) for place in (0, 1))
    sums = [(order[made], place, made) for place, made in found if made is not None]
    if not sums:
        return
    _, place, made = max(sums)
    low, high = _range(module, addition.args[place])  # type: ignore[arg-type]
    with module.graph.inserting_before(addition):
        clamped = module.graph.call_function(aten.clamp.default, (made, low, high))
    clamped.meta = described(made)
    addition.update_arg(place, clamped)


def _only_summed(decoded: object) -> Node | None:
    """The convolution whose rounded result this is, if nothing else reads it."""
    steps, value = [], decoded
    while isinstance(value, Node) and value.target in _ROUNDING and len(value.users) == 1:
        steps.append(value.target)
        value = value.args[0]
    if not isinstance(value, Node) or steps[:1] != [DEQUANTIZE] or steps[-1:] != [QUANTIZE]:
        return None
    return value if LAYERS.get(value.target) == "convolution" and len(value.users) == 1 else None


def _range(module: GraphModule, decoded: Node) -> tuple[float, float]:
    """The values that the least and the largest code stand for, in float32."""
    codes, scale_node, zero_node = decoded.args[:3]
    scale, zero = (module.get_buffer(str(node.target)) for node in (scale_node, zero_node))  # type: ignore[union-attr]
    limits = torch.iinfo(zero.dtype)
    ends = codes.args[1:3] if codes.target == aten.clamp.default else (limits.min, limits.max)  # type: ignore[union-attr]
    low, high = ((int(end) - zero.float()) * scale for end in ends)  # type: ignore[arg-type]
    return float(low), float(high)


def _pad_before(module: GraphModule, pool: Node) -> None:
    """Where padding is counted, the runtime would average codes of 0, not of the zero point."""
    value, window, stride, padding, ceiling, counted = pool.args
    sides: Any = padding
    if not counted or not any(sides):
        return
    edges = [side for size in reversed(sides) for side in (size, size)]
    with module.graph.inserting_before(pool):
        padded = module.graph.call_function(aten.constant_pad_nd.default, (value, edges, 0.0))
    padded.meta = described(pool)
    pool.args = (padded, window, stride, [0] * len(sides), ceiling, counted)
