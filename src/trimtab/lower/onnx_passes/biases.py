"""Biases in the form in which the runtime keeps a layer in integers, or leaves a float layer as it is."""

import numpy as np
import onnx_ir as ir

from trimtab.errors import LoweringError
from trimtab.lower.onnx_passes.graph import constant, decodes, numbers

_LAYERS = {"Conv", "ConvTranspose", "Gemm"}


def linear_bias_as_integers(graph: ir.Graph) -> None:
    """A Gemm of codes wants its bias as int32 on the accumulator's grid, or the runtime leaves it in float."""
    for node in list(graph):
        if node.op_type != "Gemm" or len(node.inputs) < 3:
            continue
        x, weight = (value.producer() if value is not None else None for value in node.inputs[:2])
        if not (decodes(x) and decodes(weight)):
            continue
        assert x is not None
        assert weight is not None
        x_scale, w_scale, bias = numbers(x.inputs[1]), numbers(weight.inputs[1]), numbers(node.inputs[2])
        if x_scale is None or w_scale is None or bias is None:
            raise LoweringError(f"{node.name}: scales and bias of an integer linear layer must be constants")
        step = (np.float32(x_scale) * w_scale.astype(np.float32)).astype(np.float32)
        codes = np.rint(bias.astype(np.float64) / step).astype(np.int32)
        decode = ir.node(
            "DequantizeLinear",
            [
                constant(graph, f"{node.name}.bias_codes", codes),
                constant(graph, f"{node.name}.bias_scale", step),
                constant(graph, f"{node.name}.bias_zero", np.zeros(len(codes), np.int32)),
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
        if node.op_type not in _LAYERS or not decodes(node.inputs[0].producer() if node.inputs[0] else None):
            continue
        weight = numbers(node.inputs[1])
        if weight is None:
            continue
        given = node.inputs[2] if len(node.inputs) > 2 else None
        channels = node.outputs[0].shape[1] if node.outputs[0].shape is not None else None
        bias = np.zeros(int(channels), np.float32) if given is None else numbers(given)  # type: ignore[arg-type]
        if bias is None:
            continue
        decode = ir.node(
            "DequantizeLinear",
            [
                constant(graph, f"kept_{number}.sign", np.sign(bias).astype(np.int32)),
                constant(graph, f"kept_{number}.size", np.where(bias == 0, 1, np.abs(bias)).astype(np.float32)),
            ],
            attributes={"axis": 0},
            num_outputs=1,
        )
        graph.insert_before(node, decode)
        node.resize_inputs(3)
        node.replace_input_with(2, decode.outputs[0])
