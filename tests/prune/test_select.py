"""The best units, against sorting by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import ConfigError, NumericsError
from trimtab.prune import Scores, keep_best


@given(st.data(), st.lists(st.integers(0, 4), min_size=1, max_size=40))
def test_the_highest_stay_and_of_equals_the_lower_index(data, values):
    count = data.draw(st.integers(1, len(values)))
    kept = keep_best(Scores(group="g", values=torch.tensor(values, dtype=torch.float64)), count)
    by_hand = sorted(sorted(range(len(values)), key=lambda unit: (-values[unit], unit))[:count])
    assert kept == tuple(by_hand)


def test_more_or_less_than_there_is_is_refused():
    scores = Scores(group="layer1.conv", values=torch.rand(5))
    for count in (0, 6, -1):
        with pytest.raises(ConfigError, match=f"layer1.conv: cannot keep {count} of 5 units"):
            keep_best(scores, count)


def test_scores_are_finite():
    with pytest.raises(NumericsError, match=r"layer1: the score of unit 2 is nan \(and 1 more\)"):
        Scores(group="layer1", values=torch.tensor([0.0, 1.0, float("nan"), float("inf")]))
