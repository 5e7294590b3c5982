"""A folded graph in the operators that torch's compiler fuses into oneDNN's int8 kernels (`quantized_decomposed`)."""

import torch
from torch.ao.quantization.fx import _decomposed  # noqa: F401  registers the operators
from torch.fx import GraphModule, Node

from trimtab.errors import LoweringError
from trimtab.graph.copying import copy_module, described
from trimtab.graph.layers import OPERATORS as LAYERS
from trimtab.graph.source import of_node
from trimtab.quant.operators import MOVES, pads_with_zero
from trimtab.quant.ops import DEQUANTIZE, QUANTIZE

aten = torch.ops.aten
decomposed = torch.ops.quantized_decomposed

_QUANTIZE = decomposed.quantize_per_tensor.default
_DECODE = decomposed.dequantize_per_tensor.default
_DECODE_ROWS = decomposed.dequantize_per_channel.default
_PADS: set[object] = {aten.pad.default, aten.constant_pad_nd.default}


def inductor_form(folded: GraphModule) -> GraphModule:
    """A copy that computes what `folded` does, and is what the compiler reads.

    Raises: LoweringError for codes of more than 8 bits, for weights with a scale for every group of inputs, and for
    ranges that are found at run time.
    """
    module = copy_module(folded)
    for rewrite in (_decompose, _limit_before_codes, _move_codes, _decode_unread_weight):
        for node in list(module.graph.nodes):
            rewrite(module, node)
        module.graph.eliminate_dead_code()
    module.graph.lint()
    module.delete_all_unused_submodules()
    module.recompile()
    return module


def _decompose(module: GraphModule, node: Node) -> None:
    """Scales and zero points become constants of the operator; those of a weight's rows stay tensors."""
    if getattr(node.target, "namespace", "") == "trimtab" and node.target not in {QUANTIZE, DEQUANTIZE}:
        raise LoweringError(
            f"{of_node(node)}: the compiler has no integer kernel for ranges that are found at run time; "
            "give the activation a fixed range, or leave the layer in float"
        )
    if node.target not in {QUANTIZE, DEQUANTIZE}:
        return
    value, scale, zero = node.args
    scales, zeros = (module.get_buffer(str(part.target)) for part in (scale, zero))  # type: ignore[union-attr]
    if zeros.dtype not in {torch.int8, torch.uint8} or scales.dim() > 1:
        raise LoweringError(
            f"{of_node(node)}: oneDNN multiplies codes of 8 bits with one scale a tensor or output channel; "
            "store it so, or leave the layer in float"
        )
    limits = torch.iinfo(zeros.dtype)
    ends = (limits.min, limits.max, zeros.dtype)
    with module.graph.inserting_before(node):
        if node.target == DEQUANTIZE and value.op == "get_attr":  # type: ignore[union-attr]
            rows = len(module.get_buffer(str(value.target)))  # type: ignore[union-attr]
            parts = []
            for name, part in (("scales", scales), ("zeros", zeros)):
                module.register_buffer(f"{node.name}_{name}", part.expand(rows).contiguous())
                parts.append(module.graph.get_attr(f"{node.name}_{name}"))
            new = module.graph.call_function(_DECODE_ROWS, (value, *parts, 0, *ends))
        else:
            target = _QUANTIZE if node.target == QUANTIZE else _DECODE
            new = module.graph.call_function(target, (value, float(scales), int(zeros), *ends))
    new.meta |= described(node)
    node.replace_all_uses_with(new)
    module.graph.erase_node(node)


def _limit_before_codes(module: GraphModule, node: Node) -> None:
    """A clamp of a layer's codes is a ReLU or hardtanh of its result, which the kernel takes in."""
    codes = node.args[0] if node.target == aten.clamp.default else None
    if not isinstance(codes, Node) or codes.target != _QUANTIZE or len(codes.users) > 1:
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


def _move_codes(module: GraphModule, node: Node) -> None:
    """What moves decoded values moves codes, which are decoded after: a layer is fused with what it reads decoded."""
    source = node.args[0] if node.target in MOVES and node.args else None
    if not isinstance(source, Node) or source.target != _DECODE or not pads_with_zero(node):
        return
    codes, *grid = source.args
    if node.target in _PADS:
        node.target, node.args = aten.constant_pad_nd.default, (codes, node.args[1], grid[1])
    else:
        node.update_arg(0, codes)
    with module.graph.inserting_after(node):
        decoded = module.graph.call_function(_DECODE, (node, *grid))
    decoded.meta = described(node)
    node.replace_all_uses_with(decoded, delete_user_cb=lambda user: user is not decoded)


def _decode_unread_weight(module: GraphModule, node: Node) -> None:
    """A weight that no integer kernel reads is stored in float: the compiler would decode it in every run."""
    if node.target != _DECODE_ROWS or all(_multiplies_codes(user) for user in node.users):
        return
    stored, scale = (module.get_buffer(str(part.target)) for part in node.args[:2])  # type: ignore[union-attr]
    name = f"floating_{node.name}"
    module.register_buffer(name, stored.float() * scale.view((-1,) + (1,) * (stored.dim() - 1)))
    with module.graph.inserting_before(node):
        value = module.graph.get_attr(name)
    node.replace_all_uses_with(value)


def _multiplies_codes(node: Node) -> bool:
    return node.target in LAYERS and node.args[0].target == _DECODE  # type: ignore[union-attr]
