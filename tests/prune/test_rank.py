"""Ranking, against Python's own sort."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import NumericsError
from trimtab.prune import Scores, rank


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40))
def test_the_highest_come_first_and_of_equals_the_lower_index(values):
    ranked = rank(Scores(group="g", values=torch.tensor(values, dtype=torch.float64)))
    assert ranked == tuple(sorted(range(len(values)), key=lambda unit: (-values[unit], unit)))


def test_scores_are_finite():
    with pytest.raises(NumericsError, match=r"layer1: the score of unit 2 is nan \(and 1 more\)"):
        Scores(group="layer1", values=torch.tensor([0.0, 1.0, float("nan"), float("inf")]))
