"""Where OpenVINO spends a run: from its performance counters, joined with the graph that it executes."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import openvino

from trimtab.measure import alternate
from trimtab.plan import Kind, Timeline

_CODES = {"u8", "i8", "u4", "i4"}
_CONVERSIONS = {"Convert", "FakeQuantize", "Reorder"}
_WARMUP, _FEWEST, _MOST = 3, 5, 100  # runs


def timeline(
    counting: openvino.CompiledModel,
    run: Callable[[], object],
    feed: Mapping[str, Any],
    seconds: float,
    moves: set[str],
    places: Mapping[str, str],
) -> Timeline:
    """Median times of every operator over 5 to 100 runs on one batch, after three that do not count.

    `counting` is compiled with performance counters, `run` is the same run without; `moves` are layer types that only
    move data, `places` says to which layer a kernel belongs.
    """
    request = counting.create_infer_request()
    spent: dict[str, list[float]] = {}
    end, runs = time.perf_counter() + seconds / 2, 0
    while runs < _WARMUP + _FEWEST or (runs < _WARMUP + _MOST and time.perf_counter() < end):
        request.infer(feed)
        runs += 1
        for counted in request.get_profiling_info() if runs > _WARMUP else ():
            if counted.status == openvino.ProfilingInfo.Status.EXECUTED:
                spent.setdefault(counted.node_name, []).append(counted.real_time.total_seconds() * 1e3)
    sums: dict[tuple[str, Kind, str], list[float]] = {}
    for operator in counting.get_runtime_model().get_ordered_ops():
        name = operator.get_friendly_name()
        if name in spent:
            said = {key: value.astype(str) for key, value in operator.get_rt_info().items()}
            kind = _kind(said["layerType"], said["runtimePrecision"], moves)
            key = said["layerType"], kind, places.get(name, "").removeprefix("before ")
            sums.setdefault(key, []).append(statistics.median(spent[name]))
    whole = alternate({"it": run}, seconds=seconds / 2, min_runs=_FEWEST)["it"].median_ms
    return Timeline.of_calls(whole, sums)


def _kind(layer_type: str, precision: str, moves: set[str]) -> Kind:
    if layer_type in _CONVERSIONS:
        return "conversion"
    if layer_type in moves:
        return "move"
    return "integer" if precision in _CODES else "float"
