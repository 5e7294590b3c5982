"""A folded graph in the operators that torch's compiler fuses into oneDNN's int8 kernels (`quantized_decomposed`)."""

import torch
from torch.fx import GraphModule, Node

from trimtab.errors import LoweringError
from trimtab.graph.copying import described
from trimtab.graph.layers import OPERATORS as LAYERS
from trimtab.graph.source import of_node
from trimtab.graph.values import bind
from trimtab.lower.decomposed import DECODE, DECODE_ROWS, ENCODE, PADS, grid_of, rewritten
from trimtab.quant.operators import MOVES, pads_with_zero
from trimtab.quant.ops import DEQUANTIZE, QUANTIZE

aten = torch.ops.aten


def inductor_form(folded: GraphModule) -> GraphModule:
    """A copy that computes what `folded` does, and is what the compiler reads.

    Raises: LoweringError for codes of more than 8 bits, for weights with a scale for every group of inputs, and for
    ranges that are found at run time.
    """
    return rewritten(folded, (_decompose, _limit_before_codes, _second_channel, _move_codes, _decode_unread_weight))


def _decompose(module: GraphModule, node: Node) -> None:
    """Scales and zero points become constants of the operator; those of a weight's rows stay tensors."""
    if getattr(node.target, "namespace", "") == "trimtab" and node.target not in {QUANTIZE, DEQUANTIZE}:
        raise LoweringError(
            f"{of_node(node)}: the compiler has no integer kernel for ranges that are found at run time; "
            "give the activation a fixed range, or leave the layer in float"
        )
    if node.target not in {QUANTIZE, DEQUANTIZE}:
        return
    value = node.args[0]
    scales, zeros = grid_of(module, node, "oneDNN")
    limits = torch.iinfo(zeros.dtype)
    ends = (limits.min, limits.max, zeros.dtype)
    with module.graph.inserting_before(node):
        if node.target == DEQUANTIZE and value.op == "get_attr":  # type: ignore[union-attr]
            rows = len(module.get_buffer(str(value.target)))  # type: ignore[union-attr]
            parts = []
            for name, part in (("scales", scales), ("zeros", zeros)):
                module.register_buffer(f"{node.name}_{name}", part.expand(rows).contiguous())
                parts.append(module.graph.get_attr(f"{node.name}_{name}"))
            new = module.graph.call_function(DECODE_ROWS, (value, *parts, 0, *ends))
        else:
            target = ENCODE if node.target == QUANTIZE else DECODE
            new = module.graph.call_function(target, (value, float(scales), int(zeros), *ends))
    new.meta |= described(node)
    node.replace_all_uses_with(new)
    module.graph.erase_node(node)


def _limit_before_codes(module: GraphModule, node: Node) -> None:
    """A clamp of a layer's codes is a ReLU or hardtanh of its result, which the kernel takes in."""
    codes = node.args[0] if node.target == aten.clamp.default else None
    if not isinstance(codes, Node) or codes.target != ENCODE or len(codes.users) > 1:
        return
    value, scale, zero, _, largest, _ = codes.args
    if value.target not in LAYERS or len(value.users) > 1:  # type: ignore[union-attr]
        return
    low, high = node.args[1:]
    with module.graph.inserting_before(codes):
        if (low, high) == (zero, largest):
            limited = module.graph.call_function(aten.relu.default, (value,))
        else:
            ends = ((int(limit) - int(zero)) * float(scale) for limit in (low, high))  # type: ignore[arg-type]
            limited = module.graph.call_function(aten.hardtanh.default, (value, *ends))
    limited.meta = described(node)
    codes.update_arg(0, limited)
    node.replace_all_uses_with(codes)


def _second_channel(module: GraphModule, node: Node) -> None:
    """A convolution of one channel gets another, of zeros: of one alone the compiled kernel (torch 2.13) is wrong."""
    if node.target != aten.conv2d.default:
        return
    value, weight = node.args[:2]
    if value.target != DECODE or weight.target != DECODE_ROWS:  # type: ignore[union-attr]
        return
    codes = module.get_buffer(str(weight.args[0].target))  # type: ignore[union-attr]
    if codes.shape[1] > 1 or bind(node)["groups"] > 1:
        return
    module.register_buffer(f"{node.name}_codes", torch.cat([codes, torch.zeros_like(codes)], 1))
    with module.graph.inserting_before(weight):  # type: ignore[arg-type]
        wider = module.graph.get_attr(f"{node.name}_codes")
        decoded = module.graph.call_function(DECODE_ROWS, (wider, *weight.args[1:]))  # type: ignore[union-attr]
    with module.graph.inserting_before(node):
        padded = module.graph.call_function(aten.constant_pad_nd.default, (value, [0, 0, 0, 0, 0, 1], 0.0))
    decoded.meta, padded.meta = described(weight), described(node)  # type: ignore[arg-type]
    node.update_arg(0, padded)
    node.update_arg(1, decoded)


def _move_codes(module: GraphModule, node: Node) -> None:
    """What moves decoded values moves codes, which are decoded after: a layer is fused with what it reads decoded."""
    source = node.args[0] if node.target in MOVES and node.args else None
    if not isinstance(source, Node) or source.target != DECODE or not pads_with_zero(node):
        return
    codes, *grid = source.args
    if node.target in PADS:
        node.target, node.args = aten.constant_pad_nd.default, (codes, node.args[1], grid[1])
    else:
        node.update_arg(0, codes)
    with module.graph.inserting_after(node):
        decoded = module.graph.call_function(DECODE, (node, *grid))
    decoded.meta = described(node)
    node.replace_all_uses_with(decoded, delete_user_cb=lambda user: user is not decoded)


def _decode_unread_weight(module: GraphModule, node: Node) -> None:
    """A weight that no integer kernel reads is stored in float: the compiler would decode it in every run."""
    if node.target != DECODE_ROWS or all(_multiplies_codes(user) for user in node.users):
        return
    stored, scale = (module.get_buffer(str(part.target)) for part in node.args[:2])  # type: ignore[union-attr]
    name = f"floating_{node.name}"
    module.register_buffer(name, stored.float() * scale.view((-1,) + (1,) * (stored.dim() - 1)))
    with module.graph.inserting_before(node):
        value = module.graph.get_attr(name)
    node.replace_all_uses_with(value)


def _multiplies_codes(node: Node) -> bool:
    return node.target in LAYERS and node.args[0].target == DECODE  # type: ignore[union-attr]
