"""Rewrites of an exported ONNX graph: the runtime fuses it into integer kernels, and the file holds nothing idle.

Each pass changes the model in place and keeps what it computes.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from trimtab.errors import LoweringError

_MOVES = {"Slice", "Pad", "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Gather", "Identity"}
_LAYERS = {"Conv", "ConvTranspose", "Gemm"}
_DEFAULTS: dict[str, object] = {
    "alpha": 1.0,
    "beta": 1.0,
    "transA": 0,
    "group": 1,
    "auto_pad": "NOTSET",
    "saturate": 1,
    "output_dtype": 0,
    "block_size": 0,
    "noop_with_empty_axes": 0,
    "ceil_mode": 0,
    "storage_order": 0,
    "count_include_pad": 0,
    "allowzero": 0,
}


def integer_passes(model: ir.Model) -> None:
    """All passes, in the order that they need."""
    mean_as_global_pool(model.graph)
    move_codes(model.graph)
    linear_bias_as_integers(model.graph)
    keep_float_layers(model.graph)
    remove_unused(model.graph)


def mean_as_global_pool(graph: ir.Graph) -> None:
    """ReduceMean over all spatial dimensions, kept, is GlobalAveragePool: that one has an integer kernel."""
    for node in list(graph):
        rank = len(_shape(node.inputs[0])) if node.op_type == "ReduceMean" else 0
        if rank in {3, 4} and _keeps(node):
            axes = _numbers(node.inputs[1])
            if axes is not None and sorted(int(a) % rank for a in axes) == list(range(2, rank)):
                pool = ir.node("GlobalAveragePool", [node.inputs[0]], num_outputs=1)
                _replace(graph, node, pool)


def move_codes(graph: ir.Graph) -> None:
    """Operators that only move values move the codes: they are dequantized after; padding becomes the zero point."""
    for node in list(graph):
        source = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
        if node.op_type not in _MOVES or source is None or source.op_type != "DequantizeLinear":
            continue
        codes, scale, zero = source.inputs[:3]
        inputs = [codes, *node.inputs[1:]]
        if node.op_type == "Pad":
            if node.attributes.get_string("mode", "constant") != "constant" or _pad_value(node) != 0:
                continue
            inputs = [codes, node.inputs[1], zero, *node.inputs[3:]]
        moved = ir.node(node.op_type, inputs, attributes=dict(node.attributes), num_outputs=1)
        moved.outputs[0].type = codes.type if codes is not None else None
        moved.outputs[0].shape = node.outputs[0].shape
        decoded = ir.node("DequantizeLinear", [moved.outputs[0], scale, zero], num_outputs=1)
        graph.insert_after(node, moved)
        _replace(graph, node, decoded, after=moved)


def linear_bias_as_integers(graph: ir.Graph) -> None:
    """A Gemm of codes wants its bias as int32 on the accumulator's grid, or the runtime leaves it in float."""
    for node in list(graph):
        if node.op_type != "Gemm" or len(node.inputs) < 3:
            continue
        x, weight = (value.producer() if value is not None else None for value in node.inputs[:2])
        if not (_decodes(x) and _decodes(weight)):
            continue
        assert x is not None
        assert weight is not None
        x_scale, w_scale, bias = _numbers(x.inputs[1]), _numbers(weight.inputs[1]), _numbers(node.inputs[2])
        if x_scale is None or w_scale is None or bias is None:
            raise LoweringError(f"{node.name}: scales and bias of an integer linear layer must be constants")
        step = (np.float32(x_scale) * w_scale.astype(np.float32)).astype(np.float32)
        codes = np.rint(bias.astype(np.float64) / step).astype(np.int32)
        decode = ir.node(
            "DequantizeLinear",
            [
                _constant(graph, f"{node.name}.bias_codes", codes),
                _constant(graph, f"{node.name}.bias_scale", step),
                _constant(graph, f"{node.name}.bias_zero", np.zeros(len(codes), np.int32)),
            ],
            attributes={"axis": 0},
            num_outputs=1,
        )
        graph.insert_before(node, decode)
        node.replace_input_with(2, decode.outputs[0])


def keep_float_layers(graph: ir.Graph) -> None:
    """ONNX Runtime rounds the float weight of a layer between codes to int8 when it loads, unless the bias is computed.

    So its bias becomes ±1 times its magnitude, dequantized: exactly the same floats. (`WeightBiasQuantization` there.)
    """
    for number, node in enumerate(list(graph)):
        if node.op_type not in _LAYERS or not _decodes(node.inputs[0].producer() if node.inputs[0] else None):
            continue
        weight = _numbers(node.inputs[1])
        if weight is None:
            continue
        given = node.inputs[2] if len(node.inputs) > 2 else None
        channels = node.outputs[0].shape[1] if node.outputs[0].shape is not None else None
        bias = np.zeros(int(channels), np.float32) if given is None else _numbers(given)  # type: ignore[arg-type]
        if bias is None:
            continue
        decode = ir.node(
            "DequantizeLinear",
            [
                _constant(graph, f"kept_{number}.sign", np.sign(bias).astype(np.int32)),
                _constant(graph, f"kept_{number}.size", np.where(bias == 0, 1, np.abs(bias)).astype(np.float32)),
            ],
            attributes={"axis": 0},
            num_outputs=1,
        )
        graph.insert_before(node, decode)
        node.resize_inputs(3)
        node.replace_input_with(2, decode.outputs[0])


def remove_unused(graph: ir.Graph) -> None:
    """Drop nodes and constants that nothing reads, and merge equal constants."""
    for node in reversed(list(graph)):
        if not any(out.uses() or out.is_graph_output() for out in node.outputs):
            graph.remove(node, safe=True)
    seen: dict[tuple[object, ...], ir.Value] = {}
    for name, value in list(graph.initializers.items()):
        if not value.uses():
            del graph.initializers[name]
            continue
        assert value.const_value is not None
        key = (value.const_value.dtype, tuple(value.const_value.shape), value.const_value.tobytes())
        if key in seen:
            value.replace_all_uses_with(seen[key])
            del graph.initializers[name]
        else:
            seen[key] = value


def shorten(model: ir.Model) -> dict[str, str]:
    """Strip names, types of inner values, defaults and metadata from the file. Returns: new → old value names."""
    graph = model.graph
    names = _short_names()
    renamed: dict[str, str] = {}
    kept = {value.name for value in [*graph.inputs, *graph.outputs]}
    constants = dict(graph.initializers)
    graph.initializers.clear()
    values = [*constants.values(), *(out for node in graph for out in node.outputs)]
    for value in values:
        if value.name not in kept:
            short = next(name for name in names if name not in kept)
            renamed[short] = value.name or ""
            value.name = short
            if value.const_value is not None:
                value.const_value.name = short
    for value in constants.values():
        graph.register_initializer(value)
        value.type, value.shape = None, None
    for node in graph:
        node.name = None
        node.doc_string = None
        node.metadata_props.clear()
        _drop_defaults(node)
        for out in node.outputs:
            if not out.is_graph_output():
                out.type, out.shape = None, None
            out.metadata_props.clear()
    model.metadata_props.clear()
    graph.metadata_props.clear()
    for value in (*graph.inputs, *constants.values()):
        value.metadata_props.clear()
    model.producer_name, model.producer_version, model.doc_string, graph.doc_string = "trimtab", None, None, None
    return renamed


def _drop_defaults(node: ir.Node) -> None:
    for name, attribute in list(node.attributes.items()):
        if _is_default(node, name, attribute.value):
            del node.attributes[name]


def _is_default(node: ir.Node, name: str, value: Any) -> bool:
    match name:
        case "pads":
            return set(value) == {0}
        case "dilations" | "strides":
            return set(value) == {1}
        case "kernel_shape":
            return node.op_type == "Conv"
        case "axis":
            return node.op_type == "QuantizeLinear" or (
                node.op_type == "DequantizeLinear" and not _is_vector(node.inputs[1])
            )
        case _:
            return name in _DEFAULTS and bool(value == _DEFAULTS[name])


def _keeps(node: ir.Node) -> bool:
    keepdims = node.attributes.get("keepdims")
    return keepdims is None or bool(keepdims.value)


def _is_vector(scale: ir.Value | None) -> bool:
    return scale is not None and scale.const_value is not None and len(scale.const_value.shape) > 0


def _replace(graph: ir.Graph, old: ir.Node, new: ir.Node, *, after: ir.Node | None = None) -> None:
    """Put `new` where `old` was; its one output takes over the name, type, shape and readers."""
    graph.insert_after(after or old, new)
    out, result = old.outputs[0], new.outputs[0]
    result.name, result.type, result.shape = out.name, out.type, out.shape
    ir.convenience.replace_all_uses_with(out, result, replace_graph_outputs=True)
    graph.remove(old, safe=True)


def _decodes(node: ir.Node | None) -> bool:
    return node is not None and node.op_type == "DequantizeLinear"


def _pad_value(node: ir.Node) -> float:
    value = _numbers(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.zeros(())
    return float("nan") if value is None else float(value)


def _numbers(value: ir.Value | None) -> np.ndarray | None:
    constant = ir.convenience.get_const_tensor(value) if value is not None else None
    return constant.numpy() if constant is not None else None


def _shape(value: ir.Value | None) -> tuple[object, ...]:
    return tuple(value.shape) if value is not None and value.shape is not None else ()


def _constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape))
    graph.register_initializer(value)
    return value


def _short_names() -> Iterator[str]:
    digits = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    names: Callable[[int], str] = lambda n: digits[n % 62] if n < 62 else names(n // 62 - 1) + digits[n % 62]  # noqa: E731
    number = 0
    while True:
        yield names(number)
        number += 1
