"""`measure`: one network or artifact, with everything about it that a budget can limit."""

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch

from trimtab.graph import Network
from trimtab.measure.cost import bops, macs, zero_share
from trimtab.measure.latency import Timing, alternate
from trimtab.measure.memory import RUNTIMES, peak_bytes
from trimtab.measure.metric import evaluate
from trimtab.plan import Measurement, Plan
from trimtab.tasks.rows import count, take
from trimtab.tasks.switches import evaluating, limit_threads
from trimtab.tasks.task import Inputs, Task, call


def measure(
    thing: Any,
    task: Task,
    *,
    threads: int = 1,
    batch: int = 1,
    seconds: float = 2.0,
    network: Any = None,
    plan: Plan | None = None,
) -> Measurement:
    """Measure a module, a Network, or an artifact (it has `path` and `file_bytes`, and is called like the network).

    The metric is that of the test split (val where there is none). Latency is the median over `seconds`, with `threads`
    and rows `batch`. File bytes and peak memory are an artifact's; MACs, BOPs and the share of zero weights
    are counted on `network` (default: `thing`), BOPs with the bits of `plan`. What does not apply is None.
    """
    artifact = hasattr(thing, "file_bytes")
    counted = network if network is not None else thing
    captured = isinstance(counted, Network)
    loader = task.val if task.test is None else task.test
    timing = latency(thing, first_rows(loader, batch), threads=threads, seconds=seconds)
    return Measurement(
        metric=evaluate(thing, loader, task.metric).value,
        file_bytes=thing.file_bytes if artifact else None,
        macs=macs(counted) if captured else None,
        bops=bops(counted, plan) if captured else None,
        zeros=zero_share(counted) if captured else None,
        latency_ms=timing.median_ms,
        peak_bytes=artifact_peak(thing, batch=batch, threads=threads) if artifact else None,
        threads=threads,
        batch=batch,
        spread=timing.spread,
    )


def latency(thing: Any, inputs: Inputs, *, threads: int, seconds: float) -> Timing:
    """Time one network or artifact on these inputs."""
    return latencies({"it": thing}, inputs, threads=threads, seconds=seconds)["it"]


def latencies(
    things: Mapping[str, Any], inputs: Inputs, *, threads: int, seconds: float, min_runs: int = 20
) -> dict[str, Timing]:
    """Time several networks or artifacts in turn, in `seconds` altogether or `min_runs` each, on so many threads."""
    limited = {name: _with_threads(thing, threads) for name, thing in things.items()}
    runs = {name: partial(call, thing, inputs) for name, thing in limited.items()}
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(limit_threads(threads))
        for thing in limited.values():
            stack.enter_context(evaluating(thing))
        return alternate(runs, seconds=seconds, min_runs=min_runs)


def artifact_peak(artifact: Any, *, batch: int, threads: int) -> int | None:
    """Peak memory of an artifact whose runtime is one of `memory.RUNTIMES`, else None."""
    runtime = artifact.target.name
    if runtime not in RUNTIMES:
        return None
    return peak_bytes(artifact.path, runtime=runtime, batch=batch, threads=threads)


def first_rows(loader: Any, rows: int) -> Inputs:
    """Inputs of exactly so many rows: the first of the loader, repeated when its first batch is smaller."""
    inputs, _ = next(iter(loader))
    return take(inputs, torch.arange(rows) % count(inputs))


def _with_threads(thing: Any, threads: int) -> Any:
    """An artifact's runtime has threads of its own; torch's are limited for everything else."""
    return thing.with_threads(threads) if hasattr(thing, "with_threads") else thing
