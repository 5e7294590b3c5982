"""Latency, by timing contestants in turn, so that whatever the machine does meanwhile happens to all of them.

A turn is many calls of one contestant. Were it one, each would find in the caches what the others left there: a network
small enough to stay in them would be timed as its user never meets it.
"""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from trimtab.errors import ConfigError
from trimtab.plan import Spread

_TURN, _MOST_CALLS = 0.02, 50
"""Seconds of a turn, and calls in it at most. A call longer than half of it has turns for itself."""


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
    """Time every contestant in a turn of calls a round, in an order drawn anew each round, for `seconds` in all.

    Goes on until each has `min_runs`, even when that takes longer. `warmup` calls of each (at least 1), and the first
    call of a turn of several, which finds the caches as another left them, are not counted.
    """
    if not contestants or min_runs < 1 or warmup < 1:
        raise ConfigError(
            f"latency: needs a contestant, min_runs and warmup of at least 1; got {len(contestants)} contestants, "
            f"min_runs={min_runs}, warmup={warmup}"
        )
    order = list(contestants)
    drawn = random.Random(seed)
    times: dict[str, list[float]] = {name: [] for name in order}
    calls = {name: _calls_a_turn(min(_calls(run, warmup))) for name, run in contestants.items()}
    end = time.perf_counter() + seconds
    while min(map(len, times.values())) < min_runs or time.perf_counter() < end:
        drawn.shuffle(order)
        for name in order:
            counted = _calls(contestants[name], calls[name])
            times[name] += counted[1:] or counted
    return {name: _timing(milliseconds) for name, milliseconds in times.items()}


def _calls(run: Callable[[], object], number: int) -> list[float]:
    """Milliseconds of so many calls."""
    found = []
    for _ in range(number):
        begin = time.perf_counter_ns()
        run()
        found.append((time.perf_counter_ns() - begin) / 1e6)
    return found


def _calls_a_turn(milliseconds: float) -> int:
    return max(1, min(_MOST_CALLS, int(1e3 * _TURN / max(milliseconds, 1e-6))))


def _timing(milliseconds: list[float]) -> Timing:
    q25, median, q75 = np.quantile(milliseconds, [0.25, 0.5, 0.75]).tolist()
    return Timing(median_ms=median, q25_ms=q25, q75_ms=q75, min_ms=min(milliseconds), runs=len(milliseconds))
