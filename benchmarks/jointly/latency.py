"""The latency model: predicted against measured milliseconds of whole networks that it has not seen."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import numpy as np

import trimtab as tt
from harness import Claim
from trimtab.measure import first_rows, latencies
from trimtab.plan import Target
from trimtab.search import Profile, fitted, predicted, random_plans
from trimtab.search.latency_table import Kernel, needed_times, time_layers
from trimtab.search.space import shapes_of, units_of
from trimtab.tasks import load_task

EXAMPLE = Path(__file__).parents[2] / "examples" / "cifar10_resnet.py"
PROTOCOL = """\
The latency model: kernels of the pretrained networks' own shapes are timed alone, on the target's runtime; the model
is fitted on 24 whole networks of random widths and depths (seed 0), and predicts 20 others (seed 1). One thread. All
44 are timed in turn, in an order drawn anew each round, so that whatever the machine does happens to all of them.
"""
CASES = [
    (depth, runtime, batch) for depth in ("20", "56") for runtime in ("onnxruntime", "openvino") for batch in (1, 32)
]
FITTED, UNSEEN, GOAL = 24, 20, 6.0
SECONDS = 2.0  # a network


def name_of(depth: str, runtime: str, batch: int) -> str:
    """What a case is called."""
    return f"latency-ResNet-{depth}-{runtime}-{batch}"


def run(
    depth: str, runtime: str, batch: int, *, networks: tuple[int, int] = (FITTED, UNSEEN), seconds: float = SECONDS
) -> list[dict[str, Any]]:
    """One row for one network on one runtime at one batch."""
    task = load_task(str(EXAMPLE), {"depth": depth})
    network = tt.capture(task.model, first_rows(task.train, 3))
    target = tt.target(runtime).model_copy(update={"batch": batch})
    orders = {group.name: tuple(range(group.width)) for group in network.groups}
    units = units_of(network, target, orders)
    layers = shapes_of(network, units)
    profile = Profile(
        fingerprint=network.fingerprint,
        target=runtime,
        seed=0,
        criterion="",
        units=tuple(units),
        layers=tuple(layers),
        baseline={},
        latency_table=_kernel_times(needed_times(units, layers), target),
    )
    seen, unseen = (random_plans(profile, count, seed=seed) for seed, count in enumerate(networks))
    both = [*seen, *unseen]
    times = _times(network, target, both, first_rows(task.val, batch), seconds)
    profile = fitted(profile, {plan: times[plan] for plan in seen})
    errors = [100 * abs(predicted(profile, plan)["latency"] / times[plan] - 1) for plan in unseen]
    fit = profile.latency_fit
    assert fit.median_error is not None
    return [
        {
            "latency of": f"ResNet-{depth}",
            "runtime": runtime,
            "batch": batch,
            "of the sum": fit.of_sum,
            "ms a million MACs": fit.of_macs * 1e6,
            "ms a layer": fit.of_layers,
            "constant, ms": fit.constant,
            "fastest, ms": min(times.values()),
            "slowest, ms": max(times.values()),
            "left out, median error, %": 100 * fit.median_error,
            "unseen, median error, %": float(np.median(errors)),
            "unseen, worst error, %": max(errors),
        }
    ]


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """The worst of 20 unseen plans, for each case."""
    return [
        Claim(
            f"latency of {row['latency of']}, {row['runtime']}, batch {row['batch']}: worst error of {UNSEEN} plans",
            GOAL,
            row["unseen, worst error, %"],
            "%",
        )
        for row in rows
        if "latency of" in row
    ]


def _kernel_times(needed: dict[str, Kernel], target: Target) -> dict[str, float]:
    """Timed now, not remembered from another day."""
    with TemporaryDirectory() as folder, mock.patch.dict(os.environ, XDG_CACHE_HOME=folder):
        return time_layers(needed, target, lambda: None)


def _times(
    network: tt.Network, target: Target, plans: list[tt.Plan], inputs: Any, seconds: float
) -> dict[tt.Plan, float]:
    """Milliseconds of each plan, all of them timed in turn."""
    with TemporaryDirectory() as folder:
        artifacts = {}
        for number, plan in enumerate(plans):
            settled = tt.settle(tt.apply(network, plan), [network.example])
            artifacts[str(number)] = tt.lower(settled, target, Path(folder) / f"{number}.onnx")
        timed = latencies(artifacts, inputs, threads=1, seconds=seconds * len(plans))
    return {plan: timed[str(number)].median_ms for number, plan in enumerate(plans)}
