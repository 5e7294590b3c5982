"""Embeddings look up codes and their rows' scales: the table stays in integers."""

import numpy as np
import onnx_ir as ir

from trimtab.lower.onnx_passes.graph import constant, decodes, numbers, replace


def embedding_of_codes(graph: ir.Graph) -> None:
    """Gather of a dequantized table (a scale a row) → Gather of codes, times the Gather of scales."""
    for number, node in enumerate(list(graph)):
        table = node.inputs[0].producer() if node.op_type == "Gather" and node.inputs[0] is not None else None
        if table is None or not decodes(table):
            continue
        codes, scale = table.inputs[0], numbers(table.inputs[1])
        axis = node.attributes.get_int("axis", 0)
        if numbers(codes) is None or scale is None or scale.ndim != 1 or axis != 0:
            continue
        column = constant(graph, f"embedding_{number}.scale", np.ascontiguousarray(scale[:, None]))
        rows = ir.node("Gather", [codes, node.inputs[1]], num_outputs=1)
        values = ir.node("Cast", [rows.outputs[0]], attributes={"to": ir.DataType.FLOAT}, num_outputs=1)
        scales = ir.node("Gather", [column, node.inputs[1]], num_outputs=1)
        graph.insert_before(node, [rows, values, scales])
        rows.outputs[0].name = f"{node.outputs[0].name}.rows"
        replace(graph, node, ir.node("Mul", [values.outputs[0], scales.outputs[0]], num_outputs=1))
