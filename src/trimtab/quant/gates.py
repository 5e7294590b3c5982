"""Gated activations on codes: hardsigmoid as a clamp, hardswish and SiLU as products of codes.

ONNX Runtime has no integer kernel for hardsigmoid, hardswish and SiLU, but one for sigmoid and one for products:
hardsigmoid(x) is linear between −3 and 3, so that its codes are those of x, clamped, with another scale and zero point;
hardswish(x) = x · hardsigmoid(x), and SiLU(x) = x · sigmoid(x).
"""

import torch
from torch.fx import GraphModule, Node

from trimtab.graph.copying import copy_module, described
from trimtab.quant.ops import DEQUANTIZE, QUANTIZE

aten = torch.ops.aten

_HARD: set[object] = {
    aten.hardsigmoid.default,
    aten.hardsigmoid_.default,
    aten.hardswish.default,
    aten.hardswish_.default,
}
_SWISHES: set[object] = {
    aten.silu.default,
    aten.silu_.default,
    aten.hardswish.default,
    aten.hardswish_.default,
}
_SIGMOID_STEP = 2.0**-8


def gates_on_codes(folded: GraphModule) -> GraphModule:
    """A copy of a folded graph whose gates between codes are products of codes; others stay in float.

    The gate is exact at both ends; where it is linear its zero point and its step are rounded, by less than half a step
    of x / 6. A hardsigmoid of codes that do not reach −3 has no zero point, and stays.
    """
    module = copy_module(folded)
    for node in list(module.graph.nodes):
        value = node.args[0] if node.args else None
        if not isinstance(value, Node) or value.target != DEQUANTIZE or not _is_rounded(node):
            continue
        if node.target in _HARD:
            gate = _hardsigmoid(module, node, value)
        elif node.target in _SWISHES:
            gate = _sigmoid(module, node, value)
        else:
            continue
        if gate is None:
            continue
        if node.target in _SWISHES:
            with module.graph.inserting_before(node):
                gate = _call(module, node, aten.mul.Tensor, value, gate)
        node.replace_all_uses_with(gate)
        module.graph.erase_node(node)
    module.graph.lint()
    module.recompile()
    return module


def _is_rounded(node: Node) -> bool:
    return bool(node.users) and all(user.target == QUANTIZE for user in node.users)


def _hardsigmoid(module: GraphModule, node: Node, value: Node) -> Node | None:
    """The codes behind `value`, clamped: 0 and 1 at the ends."""
    scale, zero = (_constant(module, argument) for argument in value.args[1:3])
    if scale.dim() or zero.dtype != torch.uint8:
        return None
    steps = round(6 / float(scale))
    low = round(float(zero) - 3 / float(scale))
    if low < 0 or not steps:
        return None
    with module.graph.inserting_before(node):
        constants = (
            _buffer(module, node, "step", torch.tensor(1 / steps)),
            _buffer(module, node, "zero", zero * 0 + low),
        )
        clamped = _call(module, node, aten.clamp.default, value.args[0], low, min(low + steps, 255))
        return _call(module, node, DEQUANTIZE, clamped, *constants)


def _sigmoid(module: GraphModule, node: Node, value: Node) -> Node:
    """The sigmoid of `value` in steps of 1/256."""
    with module.graph.inserting_before(node):
        constants = (
            _buffer(module, node, "step", torch.tensor(_SIGMOID_STEP)),
            _buffer(module, node, "zero", torch.tensor(0, dtype=torch.uint8)),
        )
        gate = _call(module, node, aten.sigmoid.default, value)
        return _call(module, node, DEQUANTIZE, _call(module, node, QUANTIZE, gate, *constants), *constants)


def _constant(module: GraphModule, value: object) -> torch.Tensor:
    """The constant that a node reads."""
    assert isinstance(value, Node)
    return module.get_buffer(str(value.target))


def _buffer(module: GraphModule, node: Node, what: str, value: torch.Tensor) -> Node:
    name = f"gate_{node.name}_{what}"
    module.register_buffer(name, value)
    return module.graph.get_attr(name)


def _call(module: GraphModule, node: Node, target: object, *args: object) -> Node:
    new = module.graph.call_function(target, args)  # type: ignore[arg-type]
    new.meta = described(node)
    return new
