"""Timelines against the formulas of the papers, and schedules that do not fit their training."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import ConfigError
from trimtab.plan import Dynamic, Gradual, Iterative, Rewind, RigL, Static
from trimtab.prune.schedules.timeline import CURVES, timeline

RAMPS = {
    "linear": lambda p: p,
    "cubic": lambda p: p**3 - 3 * p**2 + 3 * p,
    "cosine": lambda p: math.sin(math.pi * p / 2) ** 2,
    "exponential": lambda p: (1 - math.exp(-p * math.log(100))) / 0.99,
}


def test_each_schedule_by_hand():
    assert timeline(Static(), 7) == {0: 1.0}
    assert timeline(Iterative(rounds=4, stop=0.6), 100) == {0: 0.25, 20: 0.5, 40: 0.75, 60: 1.0}
    assert timeline(Iterative(rounds=1), 100) == {0: 1.0}
    assert timeline(Rewind(rounds=3, stop=0.6), 100) == {20: 1 / 3, 40: 2 / 3, 60: 1.0}
    assert timeline(RigL(stop=0.5, every=20), 100) == {0: 1.0, 20: 1.0, 40: 1.0}
    # Zhu & Gupta 2017, eq. 1, from 0: s = s_f (1 − (1 − t / n)³)
    found = timeline(Gradual(start=0.2, stop=0.6, every=10), 100)
    assert found == pytest.approx({30: 1 - 27 / 64, 40: 1 - 8 / 64, 50: 1 - 1 / 64, 60: 1})


@pytest.mark.parametrize("curve", CURVES)
def test_curves(curve):
    for p in (0, 0.1, 0.37, 0.5, 0.9, 1):
        assert CURVES[curve](p) == pytest.approx(RAMPS[curve](p), abs=1e-12)


@given(
    start=st.floats(0, 0.5),
    stop=st.floats(0.6, 1),
    every=st.integers(1, 40),
    curve=st.sampled_from(sorted(CURVES)),
    steps=st.integers(20, 500),
    kind=st.sampled_from([Gradual, Dynamic]),
)
def test_a_ramp_rises_within_its_times_and_ends_at_all_of_it(start, stop, every, curve, steps, kind):
    found = timeline(kind(start=start, stop=stop, every=every, curve=curve), steps)
    times, levels = list(found), list(found.values())
    assert times == sorted(times)
    assert all(a < b for a, b in itertools.pairwise(levels))
    assert round(start * steps) < times[0] <= round(start * steps) + every or times == [round(stop * steps)]
    assert times[-1] == round(stop * steps) <= steps
    assert levels[0] > 0
    assert levels[-1] == 1.0


@pytest.mark.parametrize(
    ("schedule", "steps", "message"),
    [
        (Static(), 0, "static: a schedule needs at least one training step, got 0; train longer"),
        (Iterative(rounds=9), 10, "iterative: 9 rounds need as many different steps, there are 7 among 10"),
        (Rewind(rounds=3, stop=0.6, to=0.19), 20, r"rewind: the first cut \(step 4\) must come after .* \(4\)"),
        (Gradual(start=0.5, stop=0.54), 10, "gradual: it starts and stops at step 5 of 10; train longer"),
    ],
)
def test_too_few_steps(schedule, steps, message):
    with pytest.raises(ConfigError, match=message):
        timeline(schedule, steps)


@pytest.mark.parametrize("kind", [Iterative, Gradual, Dynamic, RigL, Rewind])
@pytest.mark.parametrize("stop", [1.5, -0.1, 600])
def test_a_schedule_that_ends_after_training(kind, stop):
    with pytest.raises(ConfigError) as error:
        kind(stop=stop)
    assert str(error.value) == (
        f"{kind.__name__}: stop: times are shares of the whole training, 0 (before it) to 1 (its last step), "
        f"got {stop:g}; give a share such as 0.6"
    )
