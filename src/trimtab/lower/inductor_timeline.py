"""Which kernels a compiled library executes, and where it spends a run: from torch's profiler."""

import statistics
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

from torch.autograd.profiler_legacy import profile

from trimtab.lower.inductor_file import Facts
from trimtab.measure import alternate
from trimtab.plan import Kind, Timeline

_EXTERN, _WRITTEN = "aoti_torch_", "cpp_fused_"
_INTEGER = ("qconv", "qlinear")
_MOVES = ("quantized_max_pool", "max_pool", "cat", "copy", "clone", "empty", "as_strided", "view")
_WARMUP, _FEWEST, _MOST = 3, 5, 100  # runs


class Executed(NamedTuple):
    """One kernel of one run."""

    operator: str
    kind: Kind
    layer: str
    milliseconds: float


def executed(run: Callable[[], object], facts: Facts) -> list[Executed]:
    """The kernels of one run in their order: oneDNN's and torch's, and those that the compiler wrote."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the newer profiler writes to the terminal
        with profile() as seen:
            run()
    events = sorted(seen.function_events, key=lambda event: event.time_range.start)
    kernels = [(event, event.name[max(event.name.find(_WRITTEN), 0) :]) for event in events]
    kernels = [(event, name) for event, name in kernels if name.startswith((_EXTERN, _WRITTEN))]
    as_written = [name for _, name in kernels] == [name for name, _ in facts.calls]
    layers = [layer for _, layer in facts.calls] if as_written else [""] * len(kernels)
    found = []
    for (event, name), layer in zip(kernels, layers, strict=True):
        operator, kind = _kernel(name, facts)
        found.append(Executed(operator, kind, layer, event.time_range.elapsed_us() / 1e3))
    return found


def _kernel(name: str, facts: Facts) -> tuple[str, Kind]:
    if name in facts.written:
        return facts.written[name].operator, facts.written[name].kind
    operator = name.removeprefix(_EXTERN).removeprefix("cpu_").strip("_").removesuffix("_tensor")
    if operator.startswith(_INTEGER):
        return operator, "integer"
    return operator, "move" if operator.startswith(_MOVES) else "float"


def timeline(run: Callable[[], object], facts: Facts, seconds: float) -> Timeline:
    """Median times of every kernel over 5 to 100 runs, after three that do not count."""
    for _ in range(_WARMUP):
        run()
    runs: list[list[Executed]] = []
    end = time.perf_counter() + seconds / 2
    while len(runs) < _FEWEST or (len(runs) < _MOST and time.perf_counter() < end):
        runs.append(executed(run, facts))
    sums: dict[tuple[str, Kind, str], list[float]] = {}
    for calls in zip(*runs, strict=True):
        key = calls[0].operator, calls[0].kind, calls[0].layer
        sums.setdefault(key, []).append(statistics.median(call.milliseconds for call in calls))
    whole = alternate({"it": run}, seconds=seconds / 2, min_runs=_FEWEST)["it"].median_ms
    return Timeline.of_calls(whole, sums)
