"""Linear layers whose input is rounded at run time: integers are multiplied, and the scales come after."""

import numpy as np
import onnx_ir as ir

from trimtab.errors import LoweringError
from trimtab.lower.onnx_passes.graph import constant, decodes, numbers, replace


def dynamic_linear(graph: ir.Graph) -> None:
    """Gemm of codes with a scale found at run time → MatMulInteger, times both scales, plus the bias in float."""
    for number, node in enumerate(list(graph)):
        x, weight = (value.producer() if value is not None else None for value in (*node.inputs, None, None)[:2])
        if node.op_type != "Gemm" or not (decodes(x) and decodes(weight)):
            continue
        assert x is not None
        assert weight is not None
        if numbers(x.inputs[1]) is not None:
            continue
        integers, w_scale = numbers(weight.inputs[0]), numbers(weight.inputs[1])
        if integers is None or w_scale is None:
            raise LoweringError(f"{node.name}: weights of an integer linear layer must be constants")
        name = f"dynamic_{number}"
        codes, x_scale, zero = _codes_of_rows(graph, x)
        columns = constant(graph, f"{weight.inputs[0].name}.columns", np.ascontiguousarray(integers.T))  # type: ignore[union-attr]
        product = ir.node("MatMulInteger", [codes, columns, zero], num_outputs=1)
        total = ir.node("Cast", [product.outputs[0]], attributes={"to": ir.DataType.FLOAT}, num_outputs=1)
        step = ir.node("Mul", [x_scale, constant(graph, f"{name}.scale", w_scale)], num_outputs=1)
        scaled = ir.node("Mul", [total.outputs[0], step.outputs[0]], num_outputs=1)
        added = [product, total, step, scaled]
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            added.append(ir.node("Add", [scaled.outputs[0], node.inputs[2]], num_outputs=1))
        graph.insert_before(node, added[:-1])
        replace(graph, node, added[-1])


def _codes_of_rows(graph: ir.Graph, decoded: ir.Node) -> list[ir.Value | None]:
    """Codes, scale and zero point; what is a matrix only after it was rounded is made one before."""
    codes, scale, zero = decoded.inputs[:3]
    reshaped = codes.producer() if codes is not None else None
    rounded = reshaped.inputs[0].producer() if reshaped is not None and reshaped.op_type == "Reshape" else None  # type: ignore[union-attr]
    if reshaped is None or rounded is None or rounded.op_type != "DynamicQuantizeLinear":
        return [codes, scale, zero]
    rows = ir.node("Reshape", [rounded.inputs[0], reshaped.inputs[1]], num_outputs=1)
    again = ir.node("DynamicQuantizeLinear", [rows.outputs[0]], num_outputs=3)
    graph.insert_before(decoded, [rows, again])
    return list(again.outputs)
