"""GPTQ, coordinate descent and AdaRound against brute force over all codes."""

import sys
from itertools import product

import pytest
import torch
from codes import error, problem, to_integers
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.solve import adaround, best_scale, best_scales, descend, gptq


def least(gram, cross):
    """The best of all codes −2 … 2, row by row."""
    every = torch.tensor(list(product(range(-2, 3), repeat=gram.shape[1])), dtype=torch.float64)
    total = 0.0
    for group in range(len(gram)):
        quadratic = ((every @ gram[group]) * every).sum(1)
        for row in cross[group]:
            total += (quadratic - 2 * every @ row).min().item()
    return total


@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_descent_never_rises_and_ends_where_no_single_code_helps(seed):
    weight, gram, cross = problem(seed, groups=2)
    start = to_integers(weight, None)
    found = descend(start, gram, cross, to_integers, sweeps=20)
    assert error(found, gram, cross) <= error(start, gram, cross) + 1e-12
    assert torch.equal(found, to_integers(found, None))
    for at in product(range(2), range(2), range(4)):
        for code in range(-2, 3):
            other = found.clone()
            other[at] = code
            assert error(other, gram, cross) >= error(found, gram, cross) - 1e-9


def test_solvers_come_near_to_the_best_of_all_codes():
    rounded = swept = descended = best = 0.0
    for seed in range(40):
        weight, gram, cross = problem(seed)
        free = error(weight, gram, cross)
        after = gptq(weight, gram, to_integers)
        rounded += error(to_integers(weight, None), gram, cross) - free
        swept += error(after, gram, cross) - free
        descended += error(descend(after, gram, cross, to_integers), gram, cross) - free
        best += least(gram, cross) - free
    assert best <= descended <= swept < 0.8 * rounded
    assert descended < 1.3 * best


def test_gptq_is_the_textbooks_loop_over_columns(monkeypatch):
    """Optimal brain surgery: round one column, update the rest by the inverse of the gram that is left."""
    weight, gram, _ = problem(3, n=9, m=3)
    left, order = weight[0].clone(), gram[0].diagonal().argsort(descending=True).tolist()
    for at, column in enumerate(order):
        rest = order[at:]
        inverse = torch.linalg.inv(gram[0][rest][:, rest])
        rounded = to_integers(left[:, column], None)
        left[:, rest] -= ((left[:, column] - rounded) / inverse[0, 0])[:, None] * inverse[0]
        left[:, column] = rounded
    for block in (1, 4, 128):
        monkeypatch.setattr(
            sys.modules["trimtab.solve.gptq"], "BLOCK", block
        )  # the package has a function of that name
        torch.testing.assert_close(gptq(weight, gram, to_integers)[0], left)


def test_every_group_is_solved_alone():
    weight, gram, cross = problem(5, groups=3, n=5)
    together = descend(gptq(weight, gram, to_integers), gram, cross, to_integers)
    for group in range(3):
        one = slice(group, group + 1)
        alone = descend(gptq(weight[one], gram[one], to_integers), gram[one], cross[one], to_integers)
        torch.testing.assert_close(together[one], alone)


def test_a_column_that_may_only_be_zero_stays_zero_and_the_others_make_up_for_it():
    weight, gram, cross = problem(7)
    kept = torch.ones_like(weight)
    kept[:, :, 1] = 0

    def nearest(values, columns):
        return values * kept.gather(2, columns.expand_as(values))

    found = gptq(weight, gram, nearest)
    assert not found[:, :, 1].any()
    at = [0, 2, 3]
    expected = torch.linalg.solve(gram[0][at][:, at], cross[0][:, at].T).T
    found = descend(found, gram, cross, nearest, sweeps=500)
    torch.testing.assert_close(found[0][:, at], expected, atol=1e-6, rtol=1e-5)


def test_a_channel_that_is_never_read_does_no_harm():
    weight, gram, _ = problem(8)
    gram[:, 2, :] = gram[:, :, 2] = 0
    cross = weight @ gram
    found = descend(gptq(weight, gram, to_integers, damping=1e-6), gram, cross, to_integers)
    assert bool(found.isfinite().all())


@pytest.mark.parametrize("block", [1, 2, 4])
def test_scales_are_those_of_least_error(block):
    weight, gram, cross = problem(9, groups=2)
    codes = torch.randint(1, 4, weight.shape).double() * weight.sign()
    factors = best_scales(codes, gram, cross, block)
    before = error(codes * factors.repeat_interleave(block, 2), gram, cross)
    for change in (0.99, 1.01):
        for part in range(4 // block):
            other = factors.clone()
            other[:, :, part] *= change
            positive = factors != 1.0  # where the best would turn the codes round, the factor stays 1
            if bool(positive.all()):
                assert error(codes * other.repeat_interleave(block, 2), gram, cross) >= before
    assert bool((factors > 0).all())


def test_one_scale_for_all_is_that_of_least_error():
    weight, gram, cross = problem(10)
    codes = weight.sign()
    factor = best_scale(codes, gram, cross)
    errors = [error(codes * factor * change, gram, cross) for change in (0.99, 1.0, 1.01)]
    assert min(errors) == errors[1]
    assert best_scale(-codes, gram, cross) == 1.0


def test_adaround_comes_nearer_than_rounding_and_chooses_neighbours():
    rounded = learned = best = 0.0
    for seed in range(8):
        weight, gram, cross = problem(seed, groups=2, n=5)
        free = error(weight, gram, cross)
        found = adaround(weight, gram, cross, weight.floor(), weight.ceil())
        assert bool(((found == weight.floor()) | (found == weight.ceil())).all())
        rounded += error(weight.round(), gram, cross) - free
        learned += error(found, gram, cross) - free
        ways = torch.tensor(list(product((0.0, 1.0), repeat=5)), dtype=torch.float64)
        for group, row in product(range(2), range(2)):
            values = weight[group, row].floor() + ways
            away = values - weight[group, row]
            best += ((away @ gram[group]) * away).sum(1).min().item()
    assert best - 1e-9 <= learned < 0.8 * rounded
    assert learned - best < 0.5 * (rounded - best)


def test_adaround_leaves_what_lies_on_the_grid():
    weight, gram, _ = problem(2)
    on_grid = weight.round()
    torch.testing.assert_close(adaround(on_grid, gram, on_grid @ gram, on_grid, on_grid), on_grid)
