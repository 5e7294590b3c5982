"""Means and centred products, whatever the batches."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.errors import NumericsError, TaskError
from trimtab.solve import Gathering


def gathered(x: torch.Tensor, y: torch.Tensor, sizes: list[int]) -> Gathering:
    gathering = Gathering()
    for part_x, part_y in zip(x.split(sizes, 1), y.split(sizes, 1), strict=True):
        gathering.add(part_x, part_y)
    return gathering


@given(st.lists(st.integers(1, 20), min_size=1, max_size=5), st.integers(1, 3), st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_any_batches_give_numpys_covariance(sizes, groups, seed):
    torch.manual_seed(seed)
    x, y = torch.randn(groups, sum(sizes), 4) + 5, torch.randn(groups, sum(sizes), 2) - 3
    found = gathered(x, y, sizes).found("here")
    for group in range(groups):
        both = np.cov(torch.cat([x[group], y[group]], 1).double().numpy().T, bias=True)
        np.testing.assert_allclose(found.gram[group], both[:4, :4], atol=2e-5)
        np.testing.assert_allclose(found.cross[group], both[4:, :4], atol=2e-5)
    torch.testing.assert_close(found.mean_x, x.double().mean(1), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.mean_y, y.double().mean(1), atol=1e-5, rtol=0)


def test_a_far_mean_costs_no_digits():
    x = torch.randn(1, 1000, 3, dtype=torch.float64)
    found = gathered((x + 1e4).float(), (x + 1e4).float(), [300, 700]).found("here")
    torch.testing.assert_close(found.gram[0], torch.cov(x[0].T, correction=0), atol=2e-3, rtol=0)


def test_halves_together_are_the_whole():
    x, y = torch.randn(2, 50, 3), torch.randn(2, 50, 2)
    whole = gathered(x, y, [50]).found("here")
    both = gathered(x[:, :20], y[:, :20], [20]).with_all(gathered(x[:, 20:], y[:, 20:], [30])).found("here")
    torch.testing.assert_close(both.gram, whole.gram, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(both.cross, whole.cross, atol=1e-6, rtol=1e-5)
    assert both.count == whole.count == 50


def test_about_zero_is_the_mean_of_products():
    x, y = torch.randn(1, 40, 3, dtype=torch.float64) + 2, torch.randn(1, 40, 2, dtype=torch.float64)
    found = gathered(x, y, [40]).found("here").about_zero()
    torch.testing.assert_close(found.gram, x.mT @ x / 40)
    torch.testing.assert_close(found.cross, y.mT @ x / 40)


def test_nothing_and_nan_are_refused_by_name():
    with pytest.raises(TaskError, match=r"conv3: no rows"):
        Gathering().found("conv3")
    x = torch.ones(1, 4, 2)
    x[0, 1, 1] = torch.nan
    with pytest.raises(NumericsError, match=r"conv3: NaN or infinity"):
        gathered(x, torch.ones(1, 4, 1), [4]).found("conv3")
