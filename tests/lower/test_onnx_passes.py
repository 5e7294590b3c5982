"""Each rewrite of the ONNX graph keeps what it computes; the finished file holds nothing idle and any batch runs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from int8_nets import INTEGER_NETS, quantized, random_inputs
from trimtab.errors import LoweringError
from trimtab.lower import lower, target
from trimtab.lower.onnx_passes import (
    keep_float_layers,
    linear_bias_as_integers,
    mean_as_global_pool,
    move_codes,
    remove_unused,
    shorten,
)

U8 = {"scale": np.float32(0.03), "zero": np.uint8(110)}
X = np.random.default_rng().normal(size=(3, 4, 6, 6)).astype(np.float32)


def model_of(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], rank: int = 4) -> ir.Model:
    """A model from `x` to `y`, shapes inferred."""
    shape = ["batch", *X.shape[1:rank]]
    graph = helper.make_graph(
        nodes,
        "hand-made",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def run(model: ir.Model, x: np.ndarray) -> np.ndarray:
    """Executed as written: without the runtime's own rewrites."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    return np.asarray(session.run(None, {"x": x})[0])


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def quantize_and_back() -> list[onnx.NodeProto]:
    return [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["values"]),
    ]


def check(model: ir.Model, rewrite: Callable[[ir.Graph], None], x: np.ndarray = X) -> None:
    before = run(model, x)
    rewrite(model.graph)
    np.testing.assert_allclose(run(model, x), before, rtol=1e-5, atol=1e-6)


def test_mean_becomes_global_pool() -> None:
    nodes = [helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=1)]
    model = model_of(nodes, {"axes": np.array([-1, 2])})
    check(model, mean_as_global_pool)
    assert operators(model) == ["GlobalAveragePool"]


@pytest.mark.parametrize(("axes", "keep"), [([2], 1), ([1, 2], 1), ([2, 3], 0), ([0, 2, 3], 1)])
def test_other_means_stay(axes: list[int], keep: int) -> None:
    nodes = [helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=keep)]
    model = model_of(nodes, {"axes": np.array(axes)})
    check(model, mean_as_global_pool)
    assert operators(model) == ["ReduceMean"]


@pytest.mark.parametrize(
    ("move", "constants"),
    [
        (helper.make_node("MaxPool", ["values"], ["y"], kernel_shape=[2, 2]), {}),
        (helper.make_node("Flatten", ["values"], ["y"]), {}),
        (helper.make_node("Transpose", ["values"], ["y"], perm=[0, 2, 3, 1]), {}),
        (helper.make_node("Pad", ["values", "pads"], ["y"]), {"pads": np.array([0, 1, 0, 0, 0, 2, 1, 0])}),
    ],
    ids=["max pool", "flatten", "transpose", "pad"],
)
def test_moves_move_codes(move: onnx.NodeProto, constants: dict[str, np.ndarray]) -> None:
    model = model_of([*quantize_and_back(), move], {**U8, **constants})
    check(model, move_codes)
    remove_unused(model.graph)
    assert operators(model) == ["QuantizeLinear", move.op_type, "DequantizeLinear"]


def test_padding_with_another_value_stays() -> None:
    constants = {"pads": np.array([0, 1, 0, 0, 0, 2, 1, 0]), "one": np.float32(1)}
    model = model_of(
        [*quantize_and_back(), helper.make_node("Pad", ["values", "pads", "one"], ["y"])], {**U8, **constants}
    )
    check(model, move_codes)
    assert operators(model) == ["QuantizeLinear", "DequantizeLinear", "Pad"]


def test_linear_bias_becomes_codes() -> None:
    rng = np.random.default_rng()
    step = np.float32(0.03) * np.array([0.01, 0.02, 0.5], np.float32)
    constants = {
        "weight": rng.integers(-127, 128, (3, 4)).astype(np.int8),
        "w_scale": np.array([0.01, 0.02, 0.5], np.float32),
        "w_zero": np.zeros(3, np.int8),
        "bias": (rng.integers(-(2**20), 2**20, 3) * step).astype(np.float32),
    }
    nodes = [
        *quantize_and_back(),
        helper.make_node("DequantizeLinear", ["weight", "w_scale", "w_zero"], ["w"], axis=0),
        helper.make_node("Gemm", ["values", "w", "bias"], ["y"], transB=1),
    ]
    model = model_of(nodes, {**U8, **constants}, rank=2)
    check(model, linear_bias_as_integers, X[:, :, 0, 0])
    (gemm,) = (node for node in model.graph if node.op_type == "Gemm")
    bias = gemm.inputs[2].producer().inputs[0].const_value
    assert bias.dtype == ir.DataType.INT32


def test_a_linear_layer_without_constants_is_refused() -> None:
    nodes = [
        *quantize_and_back(),
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("DequantizeLinear", ["weight", "sum"], ["w"]),
        helper.make_node("Gemm", ["values", "w", "bias"], ["y"], transB=1, name="fc"),
    ]
    constants = {"weight": np.zeros((3, 4), np.int8), "bias": np.zeros(3, np.float32)}
    model = model_of(nodes, {**U8, **constants}, rank=2)
    with pytest.raises(LoweringError, match="fc: scales and bias of an integer linear layer must be constants"):
        linear_bias_as_integers(model.graph)


def test_unused_and_equal_constants_go() -> None:
    nodes = [
        helper.make_node("Add", ["x", "one"], ["a"]),
        helper.make_node("Add", ["a", "also_one"], ["y"]),
        helper.make_node("Mul", ["x", "idle"], ["dead"]),
    ]
    model = model_of(nodes, {"one": np.float32(1), "also_one": np.float32(1), "idle": np.float32(2)})
    check(model, remove_unused)
    assert operators(model) == ["Add", "Add"]
    assert list(model.graph.initializers) == ["one"]


def test_shortening_keeps_the_interface_and_the_values() -> None:
    nodes = [
        helper.make_node("Add", ["x", "a_long_name"], ["between"], name="named"),
        helper.make_node("Relu", ["between"], ["y"]),
    ]
    model = model_of(nodes, {"a_long_name": np.float32(0.5)})
    before = run(model, X)
    renamed = shorten(model)
    np.testing.assert_array_equal(run(model, X), before)
    assert sorted(renamed.values()) == ["a_long_name", "between"]
    assert all(len(name) == 1 for name in renamed)
    proto = ir.to_proto(model)
    assert [v.name for v in (*proto.graph.input, *proto.graph.output)] == ["x", "y"]
    assert not proto.graph.value_info
    assert not any(node.name or node.doc_string for node in proto.graph.node)


def test_shortening_never_uses_the_name_of_an_input() -> None:
    model = model_of([helper.make_node("Add", ["x", "k"], ["y"])], {"k": np.float32(1)})
    model.graph.inputs[0].name = "a"
    shorten(model)
    names = [model.graph.inputs[0].name, *model.graph.initializers]
    assert len(set(names)) == 2


@pytest.mark.parametrize("kind", ["option A"])
def test_the_finished_file(kind: str, tmp_path: Path) -> None:
    make, shapes = INTEGER_NETS[kind]
    network = quantized(make(), random_inputs(shapes, 8))
    artifact = lower(network, target("onnxruntime"), tmp_path / "net.onnx")
    proto = onnx.load(artifact.path)
    onnx.checker.check_model(proto, full_check=True)
    read = {name for node in proto.graph.node for name in node.input}
    assert all(constant.name in read for constant in proto.graph.initializer)
    results = {out.name for out in proto.graph.output}
    assert all(read.intersection(node.output) or results.intersection(node.output) for node in proto.graph.node)
    kept = {value.name for value in (*proto.graph.input, *proto.graph.output)}
    values = {name for node in proto.graph.node for name in (*node.input, *node.output)} - kept - {""}
    assert max(map(len, values)) <= 2
    for rows in (1, 3, 8):
        assert artifact(*random_inputs(shapes, rows)).shape == (rows, 5)


def test_lowering_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    make, shapes = INTEGER_NETS["residual"]
    network = quantized(make(), random_inputs(shapes, 8))
    first, second = (
        lower(net, target("onnxruntime"), tmp_path / f"{i}.onnx").path.read_bytes()
        for i, net in enumerate((network, network.clone()))
    )
    assert first == second


@pytest.mark.parametrize("bias", [[], ["bias"]])
def test_a_float_layer_between_codes_keeps_its_weight(bias: list[str]) -> None:
    """The runtime, left alone, would round it to int8 with one scale: the small channels would be lost."""
    rng = np.random.default_rng()
    sizes = np.logspace(0, -4, 5).reshape(5, 1, 1, 1)
    nodes = [
        *quantize_and_back(),
        helper.make_node("Conv", ["values", "weight", *bias], ["z"]),
        helper.make_node("QuantizeLinear", ["z", "fine", "zero"], ["out"]),
        helper.make_node("DequantizeLinear", ["out", "fine", "zero"], ["y"]),
    ]
    constants = {
        "weight": (rng.normal(size=(5, 4, 1, 1)) * sizes).astype(np.float32),
        "bias": np.array([0.0, 1e-3, -0.2, 0.01, -1e-4], np.float32),
        "fine": np.float32(1e-4),
    }
    model = model_of(nodes, {**U8, **constants})
    before = run(model, X)
    check(model, keep_float_layers)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    executed = np.asarray(session.run(None, {"x": X})[0])
    assert np.mean(np.isclose(executed, before, atol=1e-6)) > 0.99
