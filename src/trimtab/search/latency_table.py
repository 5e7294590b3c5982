"""Milliseconds of single layers on the target's runtime, for this network's own shapes at every width that is on offer.

A sum of single-operator times is not the time of the network (caches, fusions, what lies between the layers): the
profile scales it to the measured time of the whole integer network, and the search corrects it by what it measures.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import NodeProto, TensorProto, helper, numpy_helper

from trimtab.plan import Target
from trimtab.search.costs import MOST_COMBINED_UNITS, time_key
from trimtab.search.space import LayerShape, Unit, evaluate_terms, groups_in

_ROUNDS, _WARMUP = 15, 3


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One layer at one width: `inputs` and `outputs` are the weight's channel dimensions."""

    layer: LayerShape
    inputs: int
    outputs: int
    groups: int
    integer: bool


def needed_times(units: Sequence[Unit], layers: Sequence[LayerShape]) -> dict[str, Kernel]:
    """Every kernel whose time the search may ask for, by its key."""
    by_name = {unit.name: unit for unit in units}
    full = {unit.name: unit.width for unit in units}
    found = {}
    for layer in layers:
        names = list(dict.fromkeys([*groups_in(layer.weights), layer.owner]))
        varied = names if len(names) <= MOST_COMBINED_UNITS else [layer.owner]
        for chosen in itertools.product(*(by_name[name].options for name in varied)):
            options = dict(zip(varied, chosen, strict=True))
            widths = full if len(names) > MOST_COMBINED_UNITS else {n: o.kept for n, o in options.items()}
            option = options[layer.owner]
            found[time_key(layer, widths, option)] = Kernel(
                layer=layer,
                inputs=evaluate_terms(layer.inputs, widths),
                outputs=evaluate_terms(layer.outputs, widths),
                groups=evaluate_terms(layer.groups, widths),
                integer=option.activation is not None,
            )
    return found


def time_layers(needed: Mapping[str, Kernel], target: Target, advance: Callable[[], None]) -> dict[str, float]:
    """Median milliseconds of each kernel at the target's batch and threads."""
    times = {}
    for key, kernel in sorted(needed.items()):
        times[key] = _time(kernel_model(kernel, target.batch), target.threads)
        advance()
    return times


def _time(model: onnx.ModelProto, threads: int) -> float:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    declared = session.get_inputs()[0]
    dtype = np.uint8 if "uint8" in declared.type else np.float32
    feed = {declared.name: np.ones(declared.shape, dtype)}
    seconds = []
    for _ in range(_WARMUP + _ROUNDS):
        begun = time.perf_counter()
        session.run(None, feed)
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[_WARMUP:]) * 1e3


def kernel_model(kernel: Kernel, batch: int) -> onnx.ModelProto:
    """A graph of this one kernel, with random weights; integer kernels read and write codes."""
    geometry = kernel.layer.geometry
    rows = batch * geometry["rows"][0]
    generator = np.random.default_rng(0)
    shape = (kernel.outputs, kernel.inputs, *geometry.get("kernel", ()))
    weight = generator.integers(-127, 128, shape).astype(np.int8)
    node, constants = _integer(kernel, weight) if kernel.integer else _floating(kernel, weight)
    element = TensorProto.UINT8 if kernel.integer else TensorProto.FLOAT
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("x", element, [rows, kernel.inputs * kernel.groups, *geometry.get("size", ())])],
        [helper.make_tensor_value_info("y", element, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _integer(kernel: Kernel, weight: np.ndarray) -> tuple[NodeProto, dict[str, Any]]:
    outputs = kernel.outputs
    constants = {
        "w": weight,
        "s": np.float32(0.02),
        "z": np.uint8(0),
        "ws": np.full(outputs, 0.01, np.float32),
        "wz": np.zeros(outputs, np.int8),
        "b": np.zeros(outputs, np.int32),
    }
    if kernel.layer.operator == "convolution":
        names = ["x", "s", "z", "w", "ws", "wz", "s", "z", "b"]
        return helper.make_node("QLinearConv", names, ["y"], **_convolution(kernel)), constants
    names = ["x", "s", "z", "w", "ws", "wz", "b", "s", "z"]
    return helper.make_node("QGemm", names, ["y"], domain="com.microsoft", transB=1), constants


def _floating(kernel: Kernel, weight: np.ndarray) -> tuple[NodeProto, dict[str, Any]]:
    constants = {"w": weight.astype(np.float32), "b": np.zeros(kernel.outputs, np.float32)}
    if kernel.layer.operator == "convolution":
        return helper.make_node("Conv", ["x", "w", "b"], ["y"], **_convolution(kernel)), constants
    return helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1), constants


def _convolution(kernel: Kernel) -> dict[str, Any]:
    geometry = kernel.layer.geometry
    return {
        "group": kernel.groups,
        "strides": list(geometry["stride"]),
        "pads": list(geometry["padding"]) * 2,
        "dilations": list(geometry["dilation"]),
    }
