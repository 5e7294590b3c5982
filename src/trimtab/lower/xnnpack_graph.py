"""A folded graph in the form that XNNPACK's partitioner fuses: signed codes, every operator between its own Q and DQ.

XNNPACK has no strided slices and no padding of channels in integers, and no integer average pooling with windows. It
has 1×1 and depthwise convolutions, so these moves and averages become convolutions with weights 0 and 1: exact.
"""

import math
import operator
import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from trimtab.graph.copying import described
from trimtab.graph.layers import OPERATORS as LAYERS
from trimtab.lower.decomposed import DECODE, DECODE_ROWS, ENCODE, PADS, grid_of, rewritten
from trimtab.quant.operators import MOVES, pads_with_zero
from trimtab.quant.ops import DEQUANTIZE, QUANTIZE

aten = torch.ops.aten
decomposed = torch.ops.quantized_decomposed
_INT8 = (-128, 127, torch.int8)


class _Selection(NamedTuple):
    """Every `stride`-th pixel of `source`, with zeros before and after the channels."""

    source: Node
    stride: tuple[int, int]
    channels: tuple[int, int]


def xnnpack_form(folded: GraphModule) -> GraphModule:
    """The graph for ExecuTorch's exporter; it computes what `folded` does, in `quantized_decomposed` operators.

    Raises: LoweringError for codes of more than 8 bits and for weights with a scale for every group of inputs.
    """
    return rewritten(folded, _REWRITES)


def _signed_codes(module: GraphModule, node: Node) -> None:
    """Unsigned codes are shifted by 128: XNNPACK's kernels read int8."""
    if node.target not in {QUANTIZE, DEQUANTIZE}:
        return
    value, scale, zero = node.args
    scales, zeros = grid_of(module, node, "XNNPACK")
    with module.graph.inserting_before(node):
        if scales.dim():
            arguments = (value, scale, zero, 0, -127, 127, torch.int8)
            new = module.graph.call_function(DECODE_ROWS, arguments)
        else:
            shift = 128 if zeros.dtype == torch.uint8 else 0
            target = ENCODE if node.target == QUANTIZE else DECODE
            new = module.graph.call_function(target, (value, float(scales), int(zeros) - shift, *_INT8))
            new.meta["shift"] = shift
    new.meta |= described(node)
    node.replace_all_uses_with(new)
    module.graph.erase_node(node)


def _limits_before_codes(module: GraphModule, node: Node) -> None:
    """A clamp of codes is a hardtanh of values: a layer takes it in, elsewhere it is a kernel on codes."""
    codes = node.args[0] if node.target == aten.clamp.default else None
    if not isinstance(codes, Node) or codes.target != ENCODE:
        return
    value, scale, zero = codes.args[:3]
    zero_point = int(zero) + codes.meta["shift"]  # type: ignore[arg-type]
    low, high = ((int(limit) - zero_point) * float(scale) for limit in node.args[1:])  # type: ignore[arg-type]
    with module.graph.inserting_before(node):
        if value.target not in LAYERS or len(value.users) > 1:  # type: ignore[union-attr]
            value = module.graph.call_function(DECODE, (codes, *codes.args[1:]))
            value.meta = described(node)
        limited = module.graph.call_function(aten.hardtanh.default, (value, low, high))
        new = module.graph.call_function(ENCODE, (limited, *codes.args[1:]))
    limited.meta, new.meta = described(node), described(node)
    node.replace_all_uses_with(new)


def _select_by_convolution(module: GraphModule, node: Node) -> None:
    found = _selection(node)
    if found is None or any(_selection(user) is not None for user in node.users):
        return
    if found[1:] == ((1, 1), (0, 0)):
        node.replace_all_uses_with(found.source)
        return
    channels, before = found.source.meta["val"].shape[1], found.channels[0]
    total = channels + sum(found.channels)
    if total == channels:
        weight, groups = torch.ones(channels, 1, 1, 1), channels
    else:
        weight, groups = torch.zeros(total, channels, 1, 1), 1
        weight[torch.arange(channels) + before, torch.arange(channels)] = 1
    result = _convolution(module, node, found.source, weight, 1.0, [list(found.stride), [0, 0], [1, 1], groups])
    node.replace_all_uses_with(_rounded(module, result, found.source.args[1:]))


def _selection(node: Node) -> _Selection | None:
    """What a chain of slices and pads picks of decoded codes, if a convolution can pick it and it needs one."""
    source = node.args[0] if node.target == aten.slice.Tensor or node.target in PADS else None
    if not isinstance(source, Node) or node.meta["val"].dim() != 4:
        return None
    inner = _selection(source) if len(source.users) == 1 else None
    found = inner or (_Selection(source, (1, 1), (0, 0)) if source.target == DECODE else None)
    if found is None:
        return None
    if node.target == aten.slice.Tensor:
        given: tuple[Any, ...] = (*node.args[1:],)
        dim, start, end, step = given + (0, None, None, 1)[len(given) :]
        if start not in {0, None} or end not in {None, sys.maxsize}:
            return None
        if step == 1:
            return found
        if dim not in {2, 3}:
            return None
        strides = list(found.stride)
        strides[dim - 2] *= step
        return found._replace(stride=(strides[0], strides[1]))
    if node.target in PADS and pads_with_zero(node):
        edges = [*node.args[1], 0, 0, 0, 0, 0, 0][:8]  # type: ignore[misc]
        if min(edges) >= 0 and not any(edges[:4]) and not any(edges[6:]):
            before, after = found.channels
            return found._replace(channels=(before + edges[4], after + edges[5]))
    return None


def _average_by_convolution(module: GraphModule, node: Node) -> None:
    """A mean over windows that divides by their whole size is a depthwise convolution with equal weights."""
    source = node.args[0] if node.target == aten.avg_pool2d.default else None
    if not isinstance(source, Node) or source.target != DECODE or not _is_rounded(node):
        return
    window, stride, padding, ceiling, counted = node.args[1:6]
    if ceiling or (any(padding) and not counted):  # type: ignore[arg-type]
        return
    channels = source.meta["val"].shape[1]
    weight = torch.ones(channels, 1, *window)  # type: ignore[misc]
    share = 1 / math.prod(window)  # type: ignore[arg-type]
    node.replace_all_uses_with(_convolution(module, node, source, weight, share, [stride, padding, [1, 1], channels]))


def _convolution(module: GraphModule, node: Node, source: Node, codes: Tensor, scale: float, rest: list[Any]) -> Node:
    """A convolution of `source` with constant codes times one scale, before `node`."""
    owner = torch.nn.Module()
    owner.register_buffer("codes", codes.to(torch.int8))
    owner.register_buffer("scale", torch.full((len(codes),), scale))
    owner.register_buffer("zero", torch.zeros(len(codes), dtype=torch.int8))
    owner.register_buffer("bias", torch.zeros(len(codes)))
    name = f"moved_{node.name}"
    module.add_module(name, owner)
    with module.graph.inserting_before(node):
        parts = [module.graph.get_attr(f"{name}.{leaf}") for leaf in ("codes", "scale", "zero", "bias")]
        weight = module.graph.call_function(DECODE_ROWS, (*parts[:3], 0, -127, 127, torch.int8))
        result = module.graph.call_function(aten.conv2d.default, (source, weight, parts[3], *rest))
    result.meta = described(node)
    return result


def _move_codes(module: GraphModule, node: Node) -> None:
    """What moves decoded values moves codes: it is rounded to the same codes after."""
    source = node.args[0] if node.target in MOVES and node.args else None
    if not isinstance(source, Node) or source.target != DECODE or not pads_with_zero(node):
        return
    if node.target in PADS and all(user.target in LAYERS for user in node.users):
        return  # a convolution takes it in
    rounded = _rounded(module, node, source.args[1:])
    node.replace_all_uses_with(rounded, delete_user_cb=lambda user: user is not rounded.args[0])


def _rounded(module: GraphModule, node: Node, grid: tuple[Any, ...]) -> Node:
    """`node`, rounded to codes and decoded."""
    with module.graph.inserting_after(node):
        codes = module.graph.call_function(ENCODE, (node, *grid))
    with module.graph.inserting_after(codes):
        decoded = module.graph.call_function(DECODE, (codes, *grid))
    codes.meta, decoded.meta = described(node), described(node)
    return decoded


def _follow_layer(module: GraphModule, node: Node) -> None:
    """A layer whose result is not rounded: a linear one rounds each row of its input anew, any other is in float."""
    weight = node.args[1] if node.target in LAYERS else None
    if not isinstance(weight, Node) or weight.target != DECODE_ROWS or _is_rounded(node):
        return
    graph = module.graph
    if LAYERS[node.target] == "linear":
        with graph.inserting_before(node):
            found = graph.call_function(
                decomposed.choose_qparams_per_token_asymmetric.default, (node.args[0], torch.int8)
            )
            grid = [graph.call_function(operator.getitem, (found, place)) for place in (0, 1)]
            codes = graph.call_function(decomposed.quantize_per_token.default, (node.args[0], *grid, *_INT8))
            decoded = graph.call_function(
                decomposed.dequantize_per_token.default, (codes, *grid, *_INT8, torch.float32)
            )
        node.update_arg(0, decoded)
        return
    stored, scale = (module.get_buffer(str(part.target)) for part in weight.args[:2])  # type: ignore[union-attr]
    name = f"floating_{node.name}"
    module.register_buffer(name, stored.float() * scale.view((-1,) + (1,) * (stored.dim() - 1)))
    with graph.inserting_before(node):
        node.update_arg(1, graph.get_attr(name))


def _join_on_one_grid(module: GraphModule, node: Node) -> None:
    """A concatenation of codes reads codes of the grid that it writes."""
    if node.target != aten.cat.default or not _is_rounded(node):
        return
    if next(iter(node.users)).target != ENCODE:
        return
    parts: list[Any] = list(node.args[0])  # type: ignore[arg-type]
    grid = next(iter(node.users)).args[1:]
    if not all(part.target == DECODE for part in parts):
        return
    for place, part in enumerate(parts):
        if part.args[1:] != grid:
            with module.graph.inserting_before(node):
                codes = module.graph.call_function(ENCODE, (part, *grid))
                parts[place] = module.graph.call_function(DECODE, (codes, *grid))
            codes.meta, parts[place].meta = described(part), described(part)
    node.update_arg(0, parts)


def _is_rounded(node: Node) -> bool:
    """Whether codes are all that is read of a value, perhaps behind an activation that the kernel takes in."""
    user = next(iter(node.users), None)
    if len(node.users) == 1 and user is not None and user.target in {aten.hardtanh.default, aten.relu.default}:
        return _is_rounded(user)
    return len(node.users) == 1 and user is not None and user.target == ENCODE


def _own_decoder(module: GraphModule, node: Node) -> None:
    """Every reader of codes decodes them itself: the partitioner takes both together, and never half of a pair."""
    if node.target != DECODE:
        return
    for user in list(node.users)[1:]:
        with module.graph.inserting_before(user):
            own = module.graph.call_function(DECODE, node.args)
        own.meta = dict(node.meta)
        user.replace_input_with(node, own)


_REWRITES = (
    _signed_codes,
    _limits_before_codes,
    _select_by_convolution,
    _average_by_convolution,
    _move_codes,
    _join_on_one_grid,
    _follow_layer,
    _own_decoder,
)
