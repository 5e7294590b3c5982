"""Milliseconds of single layers on the target's runtime, for this network's own shapes at every width that is on offer.

A sum of single-operator times is not the time of the network (caches, fusions, what lies between the layers): the
profile scales it to the measured time of the whole integer network, and the search corrects it by what it measures.
"""

import itertools
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor

from trimtab.lower import Artifact, load
from trimtab.plan import Target
from trimtab.search.costs import MOST_COMBINED_UNITS, time_key
from trimtab.search.latency_cache import Timer, keep_times, known_times
from trimtab.search.space import LayerShape, Option, Unit, evaluate_terms, groups_in

PASSES = 3
"""Every kernel is timed in each pass over all of them: a slow spell of the machine is shorter than a pass."""

_CALLS, _WARMUP = 5, 3


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
        for chosen in itertools.product(*(_distinct(by_name[name]) for name in varied)):
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


def _distinct(unit: Unit) -> list[Option]:
    """One option of each width, in float and in integers."""
    found = {(option.kept, option.activation is not None): option for option in unit.options}
    return list(found.values())


def time_layers(needed: Mapping[str, Kernel], target: Target, advance: Callable[[], None]) -> dict[str, float]:
    """Least milliseconds of each kernel at the target's batch and threads, on its runtime; now or in an earlier run.

    `advance` is called `PASSES` times a kernel.

    A runtime that does not read ONNX is stood in for by ONNX Runtime.
    """
    runtime = target.name if target.suffix == ".onnx" else "onnxruntime"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "layer.onnx"
        artifact = load(runtime, file)
        timer = Timer.here(artifact.runtime, target)
        known = {key: time for key, time in known_times(timer).items() if key in needed}
        times = dict(known)
        for key, kernel in sorted(needed.items()) * PASSES:
            if key not in known:
                model = kernel_model(kernel, target.batch)
                onnx.save(model, file)
                took = _time(artifact.with_threads(target.threads), _ones(model))
                times[key] = min(took, times.get(key, took))
            advance()
    keep_times(timer, times)
    return times


def _ones(model: onnx.ModelProto) -> Tensor:
    declared = model.graph.input[0].type.tensor_type
    dtype = torch.uint8 if declared.elem_type == TensorProto.UINT8 else torch.float32
    return torch.ones([size.dim_value for size in declared.shape.dim], dtype=dtype)


def _time(artifact: Artifact, x: Tensor) -> float:
    seconds = []
    for _ in range(_WARMUP + _CALLS):
        begun = time.perf_counter()
        artifact(x)
        seconds.append(time.perf_counter() - begun)
    return min(seconds[_WARMUP:]) * 1e3


def kernel_model(kernel: Kernel, batch: int) -> onnx.ModelProto:
    """A graph of this one kernel, with random weights; integer kernels read and write codes."""
    geometry = kernel.layer.geometry
    rows = batch * geometry["rows"][0]
    generator = np.random.default_rng(0)
    shape = (kernel.outputs, kernel.inputs, *geometry.get("kernel", ()))
    weight = generator.integers(-127, 128, shape).astype(np.int8)
    nodes, constants = _integer(kernel, weight) if kernel.integer else _floating(kernel, weight)
    element = TensorProto.UINT8 if kernel.integer else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", element, [rows, kernel.inputs * kernel.groups, *geometry.get("size", ())])],
        [helper.make_tensor_value_info("y", element, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _integer(kernel: Kernel, weight: np.ndarray) -> tuple[list[NodeProto], dict[str, Any]]:
    outputs = kernel.outputs
    step, scales = np.float32(0.02), np.full(outputs, 0.01, np.float32)
    constants = {
        "w": weight,
        "s": step,
        "z": np.uint8(0),
        "ws": scales,
        "wz": np.zeros(outputs, np.int8),
        "b": np.zeros(outputs, np.int32),
        "bs": step * scales,
    }
    decoded = [
        helper.make_node("DequantizeLinear", ["x", "s", "z"], ["xf"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wf"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "bs"], ["bf"], axis=0),
    ]
    layer = _layer(kernel, ["xf", "wf", "bf"], "yf")
    return [*decoded, layer, helper.make_node("QuantizeLinear", ["yf", "s", "z"], ["y"])], constants


def _floating(kernel: Kernel, weight: np.ndarray) -> tuple[list[NodeProto], dict[str, Any]]:
    constants = {"w": weight.astype(np.float32), "b": np.zeros(kernel.outputs, np.float32)}
    return [_layer(kernel, ["x", "w", "b"], "y")], constants


def _layer(kernel: Kernel, reads: list[str], gives: str) -> NodeProto:
    if kernel.layer.operator == "convolution":
        return helper.make_node("Conv", reads, [gives], **_convolution(kernel))
    return helper.make_node("Gemm", reads, [gives], transB=1)


def _convolution(kernel: Kernel) -> dict[str, Any]:
    geometry = kernel.layer.geometry
    return {
        "group": kernel.groups,
        "strides": list(geometry["stride"]),
        "pads": list(geometry["padding"]) * 2,
        "dilations": list(geometry["dilation"]),
    }
