"""From the times of single layers to that of a network, fitted on whole networks of random widths and depths.

A sum alone is not the time of a network: a call costs something, a layer that is timed alone finds its inputs and
weights elsewhere, and adds and pools lie between. So MACs and the number of layers have their weights too.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from trimtab.plan import Plan
from trimtab.search.plan_search import latency_parts, plan_of
from trimtab.search.profile import LatencyFit, Profile
from trimtab.search.space import Unit

WHOLE_NETWORKS = 24
"""On so many the model is fitted: with half of them its worst error is twice as large."""

_LEAST_KEPT = 0.2
_LEAST_DEPTH = 0.4


def random_plans(profile: Profile, count: int, *, seed: int) -> list[Plan]:
    """Plans of all sizes for integer kernels: each draws how wide and how deep it is, then every unit about that."""
    drawn = np.random.default_rng(seed)
    plans = []
    for _ in range(count):
        width, depth = drawn.uniform(_LEAST_KEPT, 1.0), drawn.uniform(_LEAST_DEPTH, 1.0)
        plans.append(plan_of(profile, [_drawn(unit, width, depth, drawn) for unit in profile.units]))
    return plans


def fitted(profile: Profile, timed: Mapping[Plan, float]) -> Profile:
    """The profile with a latency model for these plans' milliseconds, and the errors of plans left out of the fit."""
    plans = list(timed)
    rows = np.array([(*latency_parts(profile, plan), 1.0) for plan in plans])
    times = np.array([timed[plan] for plan in plans])
    errors = []
    for out in range(len(plans)):
        others = np.arange(len(plans)) != out
        errors.append(abs(float(rows[out] @ _fit(rows[others], times[others])) / times[out] - 1))
    of_sum, of_macs, of_layers, constant = _fit(rows, times)
    model = LatencyFit(
        of_sum=of_sum,
        of_macs=of_macs,
        of_layers=of_layers,
        constant=constant,
        median_error=float(np.median(errors)),
        worst_error=float(max(errors)),
    )
    return profile.model_copy(update={"latency_fit": model})


def _fit(rows: np.ndarray, times: np.ndarray) -> Sequence[float]:
    """Least squares of relative errors."""
    scale = np.abs(rows).max(0).clip(min=1e-30)
    solution, *_ = np.linalg.lstsq(rows / scale / times[:, None], np.ones(len(times)), rcond=None)
    return [float(value) for value in solution / scale]


def _drawn(unit: Unit, width: float, depth: float, drawn: np.random.Generator) -> int:
    if unit.branch is not None:
        kept = int(drawn.uniform() < depth)
    else:
        wanted = unit.width * np.clip(width + drawn.uniform(-0.2, 0.2), 0, 1)
        kept = min((option.kept for option in unit.options), key=lambda k: abs(k - wanted))
    offered = [i for i, option in enumerate(unit.options) if option.kept == kept]
    return max(offered, key=lambda i: unit.options[i].activation is not None)
