"""Where ONNX Runtime spends a run: from the JSON of its own profiler, joined with the graph that it executes."""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from trimtab.lower.artifact import Artifact
from trimtab.lower.onnx_file import INTEGER_PREFIXES, MOVES
from trimtab.measure import alternate
from trimtab.plan import Kind, OperatorTime, Timeline

_CONVERSIONS = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast", "ReorderInput", "ReorderOutput"}
_CODES = ("uint8", "int8")
_SUFFIX = "_kernel_time"
_WARMUP, _FEWEST, _MOST = 3, 5, 100  # runs


def timeline(artifact: Artifact, run: Callable[[], object], feed: Mapping[str, Any], seconds: float) -> Timeline:
    """Median times of every operator over 5 to 100 runs on one batch, after three that do not count.

    `run` is the same run without the profiler.
    """
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        onnx.save(_named(onnx.load(artifact.path)), here / "named.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = artifact.threads, 1
        options.log_severity_level = 3
        options.optimized_model_filepath = str(here / "executed.onnx")
        options.enable_profiling, options.profile_file_prefix = True, str(here / "profile")
        session = onnxruntime.InferenceSession(here / "named.onnx", options, providers=["CPUExecutionProvider"])
        end, runs = time.perf_counter() + seconds / 2, 0
        while runs < _WARMUP + _FEWEST or (runs < _WARMUP + _MOST and time.perf_counter() < end):
            session.run(None, dict(feed))
            runs += 1
        events = json.loads(Path(session.end_profiling()).read_text())
        executed = {node.name: node for node in onnx.load(here / "executed.onnx").graph.node}
    whole = alternate({"it": run}, seconds=seconds / 2, min_runs=_FEWEST)["it"].median_ms
    return Timeline(total_ms=whole, operators=_medians(events, executed, artifact.origins))


def _named(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every node has a name: that of its first result."""
    for node in model.graph.node:
        node.name = node.output[0]
    return model


def _medians(
    events: Sequence[Mapping[str, Any]], executed: Mapping[str, Any], origins: Mapping[str, str]
) -> tuple[OperatorTime, ...]:
    """Of every node, then summed over the nodes of an operator and layer: a call that was held up counts for little."""
    begins = sorted(event["ts"] for event in events if event["name"] == "model_run")[_WARMUP:]
    nodes: dict[str, list[Mapping[str, Any]]] = {}
    for event in events:
        name = event["name"].removesuffix(_SUFFIX)
        if event["cat"] == "Node" and name != event["name"] and event["ts"] >= begins[0]:
            nodes.setdefault(name, []).append(event)
    times: dict[tuple[str, Kind, str], list[tuple[int, float]]] = {}
    for name, calls in nodes.items():
        args, node = calls[0]["args"], executed.get(name)
        a_run = len(calls) // len(begins)
        median = statistics.median(call["dur"] for call in calls) / 1e3
        key = _operator(args["op_name"], node), _kind(args), _layer(node, origins)
        times.setdefault(key, []).append((a_run, a_run * median))
    return tuple(
        OperatorTime(
            operator=operator,
            kind=kind,
            layer=layer,
            calls=sum(a_run for a_run, _ in of),
            milliseconds=sum(spent for _, spent in of),
        )
        for (operator, kind, layer), of in times.items()
    )


def _operator(name: str, node: Any) -> str:
    """The runtime's name; a convolution in groups (depthwise is one) is told from the others."""
    groups = next((a.i for a in node.attribute if a.name == "group"), 1) if node is not None else 1
    return f"{name} (grouped)" if groups > 1 and "Conv" in name else name


def _kind(args: Mapping[str, Any]) -> Kind:
    """From the operator and the type of what it reads."""
    operator: str = args["op_name"]
    if operator in _CONVERSIONS:
        return "conversion"
    if operator.startswith(INTEGER_PREFIXES):
        return "integer"
    reads = next((dtype for value in args["input_type_shape"] for dtype in value), "float")
    return "move" if operator in MOVES or reads in _CODES else "float"


def _layer(node: Any, origins: Mapping[str, str]) -> str:
    """The layer whose weight a node reads, or the place in the user's code that it is from; "" where none is known."""
    names = (*node.input, *node.output) if node is not None else ()
    return next((origins[name] for name in names if name in origins), "")
