"""Operators that only move values move codes, and a mean over the map is the pool that has an integer kernel."""

import numpy as np
import onnx_ir as ir

from trimtab.lower.onnx_passes.graph import decodes, numbers, replace, shape

_MOVES = {"Slice", "Pad", "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Gather", "Identity"}


def mean_as_global_pool(graph: ir.Graph) -> None:
    """ReduceMean over all spatial dimensions, kept, is GlobalAveragePool: that one has an integer kernel."""
    for node in list(graph):
        rank = len(shape(node.inputs[0])) if node.op_type == "ReduceMean" else 0
        if rank in {3, 4} and _keeps(node):
            axes = numbers(node.inputs[1])
            if axes is not None and sorted(int(a) % rank for a in axes) == list(range(2, rank)):
                pool = ir.node("GlobalAveragePool", [node.inputs[0]], num_outputs=1)
                replace(graph, node, pool)


def move_codes(graph: ir.Graph) -> None:
    """Operators that only move values move the codes: they are dequantized after; padding becomes the zero point."""
    for node in list(graph):
        source = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
        if node.op_type not in _MOVES or source is None or source.op_type != "DequantizeLinear":
            continue
        if len(source.inputs) < 3 or shape(source.inputs[1]) != ():
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
        replace(graph, node, decoded, after=moved)


def keep_requantizations(graph: ir.Graph) -> None:
    """Codes that are rounded to another scale go through a Concat of one: a table in the runtime.

    Left alone, the runtime takes two roundings of one value for one.
    """
    for node in list(graph):
        value = node.inputs[0] if node.op_type == "QuantizeLinear" else None
        if value is None or not decodes(value.producer()):
            continue
        same = ir.node("Concat", [value], attributes={"axis": 0}, num_outputs=1)
        same.outputs[0].type, same.outputs[0].shape = value.type, value.shape
        graph.insert_before(node, same)
        node.replace_input_with(0, same.outputs[0])


def _keeps(node: ir.Node) -> bool:
    keepdims = node.attributes.get("keepdims")
    return keepdims is None or bool(keepdims.value)


def _pad_value(node: ir.Node) -> float:
    value = numbers(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.zeros(())
    return float("nan") if value is None else float(value)
