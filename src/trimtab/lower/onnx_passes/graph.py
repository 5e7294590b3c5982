"""What the passes share: constants of a graph as arrays, new constants, and one node put in another's place."""

import numpy as np
import onnx_ir as ir


def replace(graph: ir.Graph, old: ir.Node, new: ir.Node, *, after: ir.Node | None = None) -> None:
    """Put `new` where `old` was; its one output takes over the name, type, shape and readers."""
    graph.insert_after(after or old, new)
    out, result = old.outputs[0], new.outputs[0]
    result.name, result.type, result.shape = out.name, out.type, out.shape
    ir.convenience.replace_all_uses_with(out, result, replace_graph_outputs=True)
    graph.remove(old, safe=True)


def decodes(node: ir.Node | None) -> bool:
    return node is not None and node.op_type == "DequantizeLinear"


def numbers(value: ir.Value | None) -> np.ndarray | None:
    constant = ir.convenience.get_const_tensor(value) if value is not None else None
    return constant.numpy() if constant is not None else None


def shape(value: ir.Value | None) -> tuple[object, ...]:
    return tuple(value.shape) if value is not None and value.shape is not None else ()


def constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape))
    graph.register_initializer(value)
    return value
