"""Milliseconds of single layers on the target's runtime, for this network's own shapes at every width that is on offer.

A sum of single-operator times is not the time of the network (caches, fusions, what lies between the layers): the profile
scales it to the measured time of the whole integer network, and the search corrects it by what it measures.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from trimtab.plan import Target
from trimtab.search.costs import time_key
from trimtab.search.space import LayerShape, Unit, evaluate_terms, groups_in

_ROUNDS, _WARMUP = 15, 3
_MOST_COMBINED_UNITS = 3


def needed_times(units: Sequence[Unit], layers: Sequence[LayerShape]) -> dict[str, tuple[LayerShape, int, int, bool]]:
    """Every kernel whose time the search may ask for: key → layer, inputs, outputs, whether it runs in integers."""
    by_name = {unit.name: unit for unit in units}
    full = {unit.name: unit.width for unit in units}
    found = {}
    for layer in layers:
        names = list(dict.fromkeys([*groups_in(layer.weights), layer.owner]))
        varied = names if len(names) <= _MOST_COMBINED_UNITS else [layer.owner]
        for chosen in itertools.product(*(by_name[name].options for name in varied)):
            options = dict(zip(varied, chosen, strict=True))
            widths = full if len(names) > _MOST_COMBINED_UNITS else {n: o.kept for n, o in options.items()}
            option = options[layer.owner]
            key = time_key(layer, widths, option)
            inputs, outputs = evaluate_terms(layer.inputs, widths), evaluate_terms(layer.outputs, widths)
            found[key] = (layer, inputs, outputs, option.activation is not None)
    return found


def time_layers(
    needed: Mapping[str, tuple[LayerShape, int, int, bool]], target: Target, advance: Callable[[], None]
) -> dict[str, float]:
    """Median milliseconds of each kernel at the target's batch and threads."""
    times = {}
    for key, (layer, inputs, outputs, integer) in sorted(needed.items()):
        times[key] = _time(_model(layer, inputs, outputs, integer, target.batch), target.threads)
        advance()
    return times


def _time(model: onnx.ModelProto, threads: int) -> float:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
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


def _model(layer: LayerShape, inputs: int, outputs: int, integer: bool, batch: int) -> onnx.ModelProto:
    """A graph of this one layer, with random weights; integer layers read and write codes."""
    convolution = layer.operator == "convolution"
    groups = _groups(layer, outputs)
    kernel = layer.geometry.get("kernel", ())
    shape = (
        [batch, inputs * groups, *layer.geometry["size"]]
        if convolution
        else [batch * layer.geometry["rows"][0], inputs]
    )
    generator = np.random.default_rng(0)
    weight = generator.integers(-127, 128, (outputs, inputs, *kernel)).astype(np.int8)
    attributes = _convolution_attributes(layer, groups) if convolution else {"transB": 1}
    nodes, constants = (
        [],
        {"w": weight, "s": np.float32(0.02), "z": np.uint8(0), "ws": np.full(outputs, 0.01, np.float32)},
    )
    constants |= {"wz": np.zeros(outputs, np.int8), "b": np.zeros(outputs, np.int32)}
    if integer and convolution:
        nodes = [helper.make_node("QLinearConv", ["x", "s", "z", "w", "ws", "wz", "s", "z", "b"], ["y"], **attributes)]
    elif integer:
        nodes = [
            helper.make_node(
                "QGemm", ["x", "s", "z", "w", "ws", "wz", "b", "s", "z"], ["y"], domain="com.microsoft", **attributes
            )
        ]
    else:
        constants = {"w": weight.astype(np.float32), "b": np.zeros(outputs, np.float32)}
        nodes = [helper.make_node("Conv" if convolution else "Gemm", ["x", "w", "b"], ["y"], **attributes)]
    element = TensorProto.UINT8 if integer else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", element, shape)],
        [helper.make_tensor_value_info("y", element, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _groups(layer: LayerShape, outputs: int) -> int:
    """Groups of a convolution at this width: they shrink with it when the layer is depthwise."""
    groups = layer.geometry.get("groups", (1,))[0]
    if groups == 1:
        return 1
    full = sum(coefficient for coefficient, names in layer.outputs if not names) or None
    return groups if full == outputs else max(1, min(groups, outputs))


def _convolution_attributes(layer: LayerShape, groups: int) -> dict[str, list[int] | int]:
    geometry = layer.geometry
    return {
        "group": groups,
        "strides": list(geometry["stride"]),
        "pads": list(geometry["padding"]) * 2,
        "dilations": list(geometry["dilation"]),
    }
