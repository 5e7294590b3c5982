"""When a schedule changes the masks, and how much of the final sparsity is then in force."""

import math
from collections.abc import Callable, Mapping

from trimtab.errors import ConfigError
from trimtab.plan import Dynamic, Gradual, Iterative, Rewind, RigL, Schedule, Static

CURVES: Mapping[str, Callable[[float], float]] = {
    "linear": lambda p: p,
    "cubic": lambda p: 1 - (1 - p) ** 3,
    "cosine": lambda p: (1 - math.cos(math.pi * p)) / 2,
    "exponential": lambda p: (1 - 100**-p) / (1 - 1 / 100),
}
"""From the share of a ramp that is over to the share of the final sparsity, 0 to 1 both.

On the exponential curve what is left to remove falls at a constant rate, to a hundredth before the last update.
"""


def timeline(schedule: Schedule, steps: int) -> dict[int, float]:
    """The level (0..1 of the final sparsity) at each step that changes the masks, in order; the last level is 1.

    Step 0 is before the first optimizer step, step n after the n-th of `steps`.
    Raises: ConfigError when there are too few steps for the schedule.
    """
    if steps < 1:
        raise ConfigError(f"{schedule.kind}: a schedule needs at least one training step, got {steps}; train longer")
    match schedule:
        case Static():
            return {0: 1.0}
        case Iterative(rounds=rounds, stop=stop):
            times = [stop * i / max(rounds - 1, 1) for i in range(rounds)]
            return _rounds(schedule.kind, times, steps)
        case Rewind(rounds=rounds, stop=stop, to=to):
            found = _rounds(schedule.kind, [stop * (i + 1) / rounds for i in range(rounds)], steps)
            if min(found) <= step_at(to, steps):
                raise ConfigError(
                    f"rewind: the first cut (step {min(found)}) must come after the step that it rewinds to "
                    f"({step_at(to, steps)}), of {steps} steps; train longer or take fewer rounds"
                )
            return found
        case RigL(stop=stop, every=every):
            return dict.fromkeys((0, *range(every, step_at(stop, steps), every)), 1.0)
        case Gradual() | Dynamic():
            return _ramp(schedule, steps)


def step_at(share: float, steps: int) -> int:
    """The step at a share of the training."""
    return round(share * steps)


def _rounds(kind: str, times: list[float], steps: int) -> dict[int, float]:
    found = {step_at(time, steps): (i + 1) / len(times) for i, time in enumerate(times)}
    if len(found) < len(times):
        raise ConfigError(
            f"{kind}: {len(times)} rounds need as many different steps, there are {len(found)} among {steps} training "
            f"steps; train longer or take fewer rounds"
        )
    return found


def _ramp(schedule: Gradual | Dynamic, steps: int) -> dict[int, float]:
    start, stop = step_at(schedule.start, steps), step_at(schedule.stop, steps)
    if start == stop:
        raise ConfigError(
            f"{schedule.kind}: it starts and stops at step {stop} of {steps}; train longer, or set stop further from "
            f"start"
        )
    curve = CURVES[schedule.curve]
    ramp = {
        step: curve((step - start) / (stop - start)) for step in range(start + schedule.every, stop, schedule.every)
    }
    return {**ramp, stop: 1.0}
