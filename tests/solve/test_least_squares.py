"""Closed-form weights against numpy and scipy."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from trimtab.errors import NumericsError
from trimtab.solve import Gathering, choose_damping, least_squares, mean_squared_error, on_survivors, pulled


def problem(rows=200, n=6, m=3, groups=1, noise=0.1, seed=0):
    torch.manual_seed(seed)
    mixing = torch.randn(groups, n, n, dtype=torch.float64)
    x = torch.randn(groups, rows, n, dtype=torch.float64) @ mixing
    weight = torch.randn(groups, m, n, dtype=torch.float64)
    y = x @ weight.mT + noise * torch.randn(groups, rows, m, dtype=torch.float64)
    gathering = Gathering()
    gathering.add(x, y)
    return x, y, weight, gathering.found("here")


def test_it_is_numpys_lstsq_with_a_constant():
    x, y, _, moments = problem(groups=2)
    solved = least_squares(moments.gram, moments.cross)
    for group in range(2):
        table = np.column_stack([x[group].numpy(), np.ones(200)])
        expected = np.linalg.lstsq(table, y[group].numpy(), rcond=None)[0][:-1].T
        np.testing.assert_allclose(solved[group], expected, atol=1e-8)


def test_survivors_are_numpys_lstsq_on_their_columns():
    x, y, _, moments = problem()
    kept = torch.rand(1, 3, 6) < 0.6
    kept[0, 0] = False
    solved = on_survivors(moments.gram, moments.cross, kept)
    assert not solved[~kept].any()
    for row in range(1, 3):
        columns = kept[0, row].numpy()
        table = np.column_stack([x[0].numpy()[:, columns], np.ones(200)])
        expected = np.linalg.lstsq(table, y[0, :, row].numpy(), rcond=None)[0][:-1]
        np.testing.assert_allclose(solved[0, row][kept[0, row]], expected, atol=1e-8)


def test_pulled_minimizes_the_penalized_error():
    x, y, weight, moments = problem(rows=8, n=4, m=1)
    start = torch.randn_like(weight)
    near = pulled(moments, start, damping=0.3)
    penalty = 0.3 * moments.gram[0].diagonal().mean().item()
    x0, y0 = (x - x.mean(1, keepdim=True))[0].numpy(), (y - y.mean(1, keepdim=True))[0, :, 0].numpy()

    def loss(w):
        return np.mean((y0 - x0 @ w) ** 2) + penalty * np.sum((w - start[0, 0].numpy()) ** 2)

    expected = minimize(loss, np.zeros(4), tol=1e-12).x
    np.testing.assert_allclose(least_squares(near.gram, near.cross)[0, 0], expected, atol=1e-4)


def test_error_is_that_of_the_rows_up_to_what_no_weight_changes():
    x, y, weight, moments = problem()
    other = torch.randn_like(weight)

    def true(w):
        away = (y - y.mean(1, keepdim=True)) - (x - x.mean(1, keepdim=True)) @ w.mT
        return away.square().mean(1)

    found = mean_squared_error(moments.gram, moments.cross, other)
    found = found - mean_squared_error(moments.gram, moments.cross, weight)
    torch.testing.assert_close(found, true(other) - true(weight))


def test_little_data_damps_more_than_much():
    def chosen(rows):
        truth = torch.ones(1, 1, 30, dtype=torch.float64)
        torch.manual_seed(1)
        halves = []
        for _ in range(2):
            x = torch.randn(1, rows, 30, dtype=torch.float64)
            gathering = Gathering()
            gathering.add(x, x @ truth.mT + 3 * torch.randn(1, rows, 1, dtype=torch.float64))
            halves.append(gathering.found("here"))
        return choose_damping(*halves, truth + 0.3 * torch.randn_like(truth))

    assert chosen(40) > chosen(20_000)


def test_what_will_be_removed_is_made_up_for_though_nothing_is_wrong_yet():
    """Targets are exactly what the weight writes: pulled to it, nothing would ever make up for what leaves."""
    torch.manual_seed(2)
    truth, halves = torch.randn(1, 4, 20, dtype=torch.float64), []
    mixing = torch.randn(20, 20, dtype=torch.float64)
    for _ in range(2):
        x = torch.randn(1, 500, 20, dtype=torch.float64) @ mixing
        gathering = Gathering()
        gathering.add(x, x @ truth.mT)
        halves.append(gathering.found("here"))
    thinned = truth * (torch.rand_like(truth) > 0.5)
    assert choose_damping(*halves, truth, thinned) < 0.1


def test_a_gram_without_an_inverse_is_refused():
    with pytest.raises(NumericsError, match="damping"):
        least_squares(torch.zeros(1, 2, 2, dtype=torch.float64), torch.ones(1, 1, 2, dtype=torch.float64))
