"""Latency, by timing contestants in turn, so that whatever the machine does meanwhile happens to all of them."""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from trimtab.errors import ConfigError
from trimtab.plan import Spread


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Repeated runs of one contestant."""

    median_ms: float
    q25_ms: float
    q75_ms: float
    min_ms: float
    runs: int

    @property
    def noise(self) -> float:
        """How far the quartiles lie apart, as a share of the median."""
        return (self.q75_ms - self.q25_ms) / self.median_ms

    @property
    def spread(self) -> Spread:
        """The quartiles, as a Measurement keeps them."""
        return Spread(q25_ms=self.q25_ms, q75_ms=self.q75_ms, runs=self.runs)


def alternate(
    contestants: Mapping[str, Callable[[], object]],
    *,
    seconds: float,
    min_runs: int = 20,
    warmup: int = 3,
    seed: int = 0,
) -> dict[str, Timing]:
    """Time every contestant once a round, in an order drawn anew each round, for `seconds` in all.

    Goes on until each has `min_runs`, even when that takes longer; the first `warmup` rounds are not counted.
    """
    if not contestants or min_runs < 1:
        raise ConfigError(
            f"latency: needs a contestant and min_runs >= 1, got {len(contestants)} contestants, min_runs={min_runs}"
        )
    order = list(contestants)
    drawn = random.Random(seed)
    times: dict[str, list[float]] = {name: [] for name in order}
    for _ in range(warmup):
        for run in contestants.values():
            run()
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < min_runs or time.perf_counter() < end:
        drawn.shuffle(order)
        for name in order:
            begin = time.perf_counter_ns()
            contestants[name]()
            times[name].append((time.perf_counter_ns() - begin) / 1e6)
        rounds += 1
    return {name: _timing(milliseconds) for name, milliseconds in times.items()}


def _timing(milliseconds: list[float]) -> Timing:
    q25, median, q75 = np.quantile(milliseconds, [0.25, 0.5, 0.75]).tolist()
    return Timing(median_ms=median, q25_ms=q25, q75_ms=q75, min_ms=min(milliseconds), runs=len(milliseconds))
