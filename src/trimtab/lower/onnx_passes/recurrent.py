"""LSTM and GRU of integer matrices: the runtime's own operator for the one, a loop of products for the other."""

from typing import Any

import numpy as np
import onnx_ir as ir

from trimtab.lower.onnx_passes.graph import constant, decodes, numbers

_OWN = "com.microsoft"


def integer_recurrent(model: ir.Model) -> None:
    """LSTM → DynamicQuantizeLSTM; GRU → a product for all steps, and a Scan with one product a step."""
    graph = model.graph
    for number, node in enumerate(list(graph)):
        if node.op_type not in {"LSTM", "GRU"}:
            continue
        matrices = [_matrix(value) for value in node.inputs[1:3]]
        if any(matrix is None for matrix in matrices):
            continue
        columns: list[ir.Value] = []
        for which, matrix in zip("wr", matrices, strict=True):
            assert matrix is not None
            columns += _columns(graph, f"recurrent_{number}.{which}", *matrix, stacked=node.op_type == "LSTM")
        if node.op_type == "LSTM":
            model.opset_imports[_OWN] = 1
            _lstm(graph, node, columns)
        else:
            _gru(graph, node, columns, f"recurrent_{number}")


def _matrix(value: ir.Value | None) -> tuple[np.ndarray, np.ndarray] | None:
    """Integers and scales behind Unsqueeze(DequantizeLinear(…))."""
    wrapped = value.producer() if value is not None else None
    decoded = wrapped.inputs[0] if wrapped is not None and wrapped.op_type == "Unsqueeze" else None
    found = decoded.producer() if decoded is not None else None
    if not decodes(found):
        return None
    assert found is not None
    integers, scale = numbers(found.inputs[0]), numbers(found.inputs[1])
    return None if integers is None or scale is None else (integers, scale)


def _columns(graph: ir.Graph, name: str, integers: np.ndarray, scale: np.ndarray, *, stacked: bool) -> list[ir.Value]:
    """The matrix transposed and its scales; with a first dimension of one direction where `stacked`."""
    arrays = [np.ascontiguousarray(integers.T), scale]
    arrays = [array[None] for array in arrays] if stacked else arrays
    return [constant(graph, f"{name}.{what}", array) for what, array in zip(("columns", "scale"), arrays, strict=True)]


def _rows(scale: ir.Value) -> int:
    """How many scales there are."""
    assert scale.const_value is not None
    return int(scale.const_value.size)


def _lstm(graph: ir.Graph, node: ir.Node, columns: list[ir.Value]) -> None:
    w, w_scale, r, r_scale = columns
    zero = constant(graph, f"{w.name}.zero", np.zeros((1, _rows(w_scale)), np.int8))
    x, bias, _, *states = (node.inputs[i] for i in (0, 3, 4, 5, 6))
    inputs = [x, w, r, bias, None, *states, None, w_scale, zero, r_scale, zero]
    attributes = {name: node.attributes[name] for name in ("hidden_size",)}
    new = ir.node("DynamicQuantizeLSTM", inputs, attributes=attributes, domain=_OWN, num_outputs=len(node.outputs))
    _take_over(graph, node, list(new.outputs), [new])


def _gru(graph: ir.Graph, node: ir.Node, columns: list[ir.Value], name: str) -> None:
    """The outputs are as those of GRU: [steps, 1, rows, width] and [1, rows, width]."""
    w, w_scale, r, r_scale = columns
    wrapped = node.inputs[3].producer() if node.inputs[3] is not None else None
    bias = numbers(node.inputs[3] if wrapped is None else wrapped.inputs[0])
    assert bias is not None  # `export` makes it of a constant
    of_input, of_state = (
        constant(graph, f"{name}.{what}", part) for what, part in zip("ws", np.split(bias.reshape(-1), 2), strict=True)
    )
    axis = constant(graph, f"{name}.axis", np.array([0], np.int64))
    direction = constant(graph, f"{name}.direction", np.array([1], np.int64))
    width = _rows(r_scale) // 3
    sizes = [
        constant(graph, f"{name}.{n}", np.array(s, np.int64))
        for n, s in (("two", [2 * width, width]), ("one", [width] * 2))
    ]
    given = _product(node.inputs[0], w, w_scale, of_input)
    first = ir.node("Squeeze", [node.inputs[5], axis], num_outputs=1)
    body = _step(r, r_scale, of_state, *sizes)
    scan = ir.node(
        "Scan",
        [first.outputs[0], given[-1].outputs[0]],
        attributes={"body": body, "num_scan_inputs": 1},
        num_outputs=2,
    )
    all_steps = ir.node("Unsqueeze", [scan.outputs[1], direction], num_outputs=1)
    final = ir.node("Unsqueeze", [scan.outputs[0], axis], num_outputs=1)
    _take_over(graph, node, [all_steps.outputs[0], final.outputs[0]], [*given, first, scan, all_steps, final])


def _step(r: ir.Value, scale: ir.Value, bias: ir.Value, two: ir.Value, one: ir.Value) -> ir.Graph:
    """One step: (state, what the input gives) → (state, state)."""
    state, given = (
        ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([None, None]))
        for name in ("state", "given")
    )
    nodes = _product(state, r, scale, bias)

    def add(operator: str, *inputs: Any, outputs: int = 1, **attributes: Any) -> Any:
        new = ir.node(operator, list(inputs), attributes=attributes, num_outputs=outputs)
        nodes.append(new)
        return new.outputs if outputs > 1 else new.outputs[0]

    gates_own, new_own = add("Split", nodes[-1].outputs[0], two, outputs=2, axis=-1)
    gates_given, new_given = add("Split", given, two, outputs=2, axis=-1)
    update, reset = add("Split", add("Sigmoid", add("Add", gates_given, gates_own)), one, outputs=2, axis=-1)
    candidate = add("Tanh", add("Add", new_given, add("Mul", reset, new_own)))
    last = add("Add", candidate, add("Mul", update, add("Sub", state, candidate)))
    again = add("Identity", last)
    for value in (last, again):
        value.type, value.shape = state.type, state.shape
    return ir.Graph([state, given], [last, again], nodes=nodes, name="step")


def _product(x: Any, matrix: ir.Value, scale: ir.Value, bias: ir.Value) -> list[ir.Node]:
    """x, rounded to its own range, times a matrix of integers, plus a bias."""
    rounded = ir.node("DynamicQuantizeLinear", [x], num_outputs=3)
    codes, step, zero = rounded.outputs
    product = ir.node("MatMulInteger", [codes, matrix, zero], num_outputs=1)
    total = ir.node("Cast", [product.outputs[0]], attributes={"to": ir.DataType.FLOAT}, num_outputs=1)
    factor = ir.node("Mul", [step, scale], num_outputs=1)
    scaled = ir.node("Mul", [total.outputs[0], factor.outputs[0]], num_outputs=1)
    return [rounded, product, total, factor, scaled, ir.node("Add", [scaled.outputs[0], bias], num_outputs=1)]


def _take_over(graph: ir.Graph, old: ir.Node, results: list[ir.Value], added: list[ir.Node]) -> None:
    """Put `added` where `old` was; its results take over the names, all others are called after the first of them."""
    graph.insert_before(old, added)
    for number, value in enumerate(out for node in added for out in node.outputs):
        value.name = f"{old.outputs[0].name}.{number}"
    for out, result in zip(old.outputs, results, strict=False):
        result.name, result.type, result.shape = out.name, out.type, out.shape
        ir.convenience.replace_all_uses_with(out, result, replace_graph_outputs=True)
    graph.remove(old, safe=True)
