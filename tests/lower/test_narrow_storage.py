"""Weights are stored in as few bits as their integers need, and run as the int8 that they stand for."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from trimtab.lower.onnx_passes import narrow_weights, remove_unused, shorten

TERNARY = [-1, 0, 1]
WIDE = [-100, -7, 3, 90]


def model_of(weight: np.ndarray) -> ir.Model:
    """One convolution between codes."""
    channels, inputs, *sides = weight.shape
    constants = {
        "weight": weight,
        "scale": np.full(channels, 0.01, np.float32),
        "zero": np.zeros(channels, np.int8),
        "step": np.float32(0.05),
        "middle": np.uint8(128),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step", "middle"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "step", "middle"], ["v"]),
        helper.make_node("DequantizeLinear", ["weight", "scale", "zero"], ["w"], axis=0),
        helper.make_node("Conv", ["v", "w"], ["z"], pads=[side // 2 for side in sides] * 2),
        helper.make_node("QuantizeLinear", ["z", "step", "middle"], ["p"]),
        helper.make_node("DequantizeLinear", ["p", "step", "middle"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "hand-made",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", inputs, 5, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def executed(model: ir.Model, x: np.ndarray, written: Path | None = None) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    if written is not None:
        options.log_severity_level = 3
        options.optimized_model_filepath = str(written)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    return np.asarray(session.run(None, {"x": x})[0])


@settings(max_examples=30, deadline=None)
@given(
    levels=st.one_of(
        st.lists(st.integers(-8, 7), min_size=1, max_size=16, unique=True),
        st.lists(st.integers(-128, 127), min_size=1, max_size=20, unique=True),
    ),
    shape=st.sampled_from([(8, 4, 3, 3), (7, 11, 1, 1), (9, 9, 1, 3), (66, 1, 1, 1)]),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_is_computed_stays(levels: list[int], shape: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.choice(np.array(levels, np.int8), shape)
    x = rng.normal(size=(2, shape[1], 5, 5)).astype(np.float32)
    expected = executed(model_of(weight), x)
    model = model_of(weight)
    narrow_weights(model.graph)
    remove_unused(model.graph)
    shorten(model)
    np.testing.assert_array_equal(executed(model, x), expected)


@pytest.mark.parametrize(
    ("levels", "bits", "operators"),
    [
        (list(range(-8, 8)), 4, {"Cast": 1}),
        (list(range(-120, 121, 16)), 4, {"Cast": 1, "Gather": 1, "Reshape": 1}),
        (TERNARY, 2, {"Cast": 1, "Gather": 1, "Reshape": 1}),
        (WIDE, 2, {"Cast": 1, "Gather": 1, "Reshape": 1}),
        ([-1, 1], 1, {"Cast": 1, "Gather": 1, "Reshape": 1}),
        (list(range(-8, 9)), 8, {}),
    ],
    ids=["integers of four bits", "sixteen others", "ternary", "four others", "binary", "seventeen"],
)
def test_bits_and_kernels(levels: list[int], bits: int, operators: dict[str, int], tmp_path: Path) -> None:
    rng = np.random.default_rng()
    weight = rng.permutation(np.resize(np.array(levels, np.int8), 32 * 32 * 9)).reshape(32, 32, 3, 3)
    whole, model = model_of(weight), model_of(weight)
    narrow_weights(model.graph)
    remove_unused(model.graph)
    before, after = (len(ir.to_proto(m).SerializeToString()) for m in (whole, model))
    assert abs(before - after - weight.size * (8 - bits) // 8) < 400
    added = Counter(node.op_type for node in model.graph) - Counter(node.op_type for node in whole.graph)
    assert added == operators
    written = tmp_path / "optimized.onnx"
    executed(model, rng.normal(size=(1, 32, 5, 5)).astype(np.float32), written)
    assert [node.op_type for node in onnx.load(written).graph.node] == [
        "QuantizeLinear",
        "QLinearConv",
        "DequantizeLinear",
    ]


def test_small_weights_and_other_constants_stay() -> None:
    model = model_of(np.ones((3, 3, 1, 1), np.int8))
    before = ir.to_proto(model).SerializeToString()
    narrow_weights(model.graph)
    assert ir.to_proto(model).SerializeToString() == before
