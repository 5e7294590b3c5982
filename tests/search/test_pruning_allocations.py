"""Allocations against brute force."""

import itertools
from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import ConfigError
from trimtab.search.pruning import ALLOCATIONS
from trimtab.search.pruning.allocations import Thresholding
from trimtab.search.pruning.allocations.sensitivity import lower_hull
from trimtab.search.pruning.subject import Queue, Subject


def made(sizes, drawn, **more):
    return [
        Subject(name=str(i), scores=torch.from_numpy(drawn.permutation(n) / n + 1 / (i + 3)), **more)
        for i, n in enumerate(sizes)
    ]


def allocated(name, subjects, wanted):
    queue = Queue(subjects, ALLOCATIONS.load(name)()(subjects))
    return list(queue.removed(queue.steps_for(wanted)).values())


@pytest.mark.parametrize("name", list(ALLOCATIONS))
def test_priorities_never_fall_within_a_subject(name):
    drawn = np.random.default_rng(0)
    subjects = [
        Subject(
            name=str(step),
            scores=torch.from_numpy(drawn.random(23)),
            step=step,
            shape=(23, 1),
            curve=((0, 0.0), (5, 0.3), (9, 0.2), (23 - step, 0.9)) if step < 4 else ((0, 0.0), (21, 0.5)),
        )
        for step in (1, 2, 4, 7)
    ]
    for subject, priorities in zip(subjects, ALLOCATIONS.load(name)()(subjects), strict=True):
        assert len(priorities) == len(subject.removals)
        assert (priorities.diff() >= 0).all()


@given(st.lists(st.integers(2, 40), min_size=1, max_size=5), st.floats(0.01, 0.9))
def test_uniform_removes_the_share_of_each_to_the_piece(sizes, share):
    subjects = made(sizes, np.random.default_rng(1))
    wanted = min(int(share * sum(sizes)) or 1, sum(sizes) - len(sizes))
    removed = allocated("uniform", subjects, wanted)
    assert sum(removed) == wanted
    # There is one share that, rounded to pieces, is what each lost; one piece of each stays.
    pairs = list(zip(sizes, removed, strict=True))
    least = max((gone - 0.5) / n for n, gone in pairs)
    assert least <= min(((gone + 0.5) / n for n, gone in pairs if gone < n - 1), default=1) + 1e-12


def test_global_removes_the_lowest_scores_of_all():
    drawn = np.random.default_rng(2)
    subjects = made([5, 9, 30], drawn)
    for wanted in (1, 7, 20, 41):
        removed = allocated("global", subjects, wanted)
        # Of each, the best piece stays; of all others the lowest leave.
        free = sorted((float(score), i) for i, s in enumerate(subjects) for score in s.scores.sort().values[:-1])
        assert removed == [sum(owner == i for _, owner in free[:wanted]) for i in range(3)]


def test_global_counts_the_mean_of_what_leaves_together():
    first = Subject(name="a", scores=torch.tensor([0.0, 9.0, 9.0, 9.0], dtype=torch.float64), step=2, least=2)
    second = Subject(name="b", scores=torch.tensor([2.0, 5.0, 5.0], dtype=torch.float64))
    assert allocated("global", [first, second], 1) == [0, 1]
    assert allocated("global", [first, second], 2) == [2, 1]


SHAPES = [(20, 3, 5, 5), (50, 20, 5, 5), (500, 800), (10, 500), (64, 1, 3)]


@pytest.mark.parametrize("share", [0.3, 0.8, 0.98])
def test_erdos_renyi_densities_follow_the_formula(share):
    sizes = [prod(shape) for shape in SHAPES]
    relative = [sum(shape) / prod(shape) for shape in SHAPES]
    low, high = 0.0, 1e9
    for _ in range(200):  # the factor, by bisection
        factor = (low + high) / 2
        left = sum(min(1.0, factor * r) * n for r, n in zip(relative, sizes, strict=True))
        low, high = (factor, high) if left < (1 - share) * sum(sizes) else (low, factor)
    drawn = np.random.default_rng(3)
    subjects = [
        Subject(name=str(i), scores=torch.from_numpy(drawn.random(n)), shape=shape)
        for i, (n, shape) in enumerate(zip(sizes, SHAPES, strict=True))
    ]
    removed = allocated("erdos_renyi", subjects, round(share * sum(sizes)))
    for gone, n, r in zip(removed, sizes, relative, strict=True):
        assert abs((n - gone) - min(1.0, factor * r) * n) <= 1.5


def test_erdos_renyi_is_refused_where_there_is_no_layer():
    with pytest.raises(ConfigError, match="'erdos_renyi' goes by the shape of a layer's weight; take it for weights"):
        allocated("erdos_renyi", made([4, 5], np.random.default_rng(0)), 2)


def test_uniform_is_refused_where_everything_is_one_piece():
    branches = [Subject(name=n, scores=torch.ones(1, dtype=torch.float64), least=0) for n in "ab"]
    with pytest.raises(ConfigError, match="'uniform' has no share of one piece"):
        allocated("uniform", branches, 1)


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(-5, 20)), min_size=1, max_size=8))
def test_the_hull_is_the_lowest_that_segments_between_points_reach(points):
    curve = tuple({x: (x, float(y)) for x, y in points}.values())
    hull = lower_hull(curve)
    assert set(hull) <= set(curve)
    xs, ys = [x for x, _ in hull], [y for _, y in hull]
    assert xs == sorted(set(xs))
    for x in range(min(xs), max(xs) + 1):
        lowest = min(
            a[1] if a[0] == b[0] else a[1] + (b[1] - a[1]) * (x - a[0]) / (b[0] - a[0])
            for a in curve
            for b in curve
            if a[0] <= x <= b[0] and (a[0] != b[0] or a[0] == x)
        )
        assert float(np.interp(x, xs, ys)) == pytest.approx(lowest, abs=1e-9)


@given(st.integers(0, 10**6), st.integers(1, 11))
def test_sensitivity_is_the_least_sum_for_what_is_saved(seed, wanted):
    """Over all ways to remove as many pieces, along the hulls of random curves."""
    drawn = np.random.default_rng(seed)
    subjects = []
    for i in range(3):
        places = sorted({0, *drawn.integers(1, 5, 3).tolist(), 4})
        curve = tuple((p, float(p and drawn.random())) for p in places)
        subjects.append(Subject(name=str(i), scores=torch.from_numpy(drawn.random(5)), curve=curve))

    def divergence(removed):
        return sum(
            float(np.interp(n, *zip(*lower_hull(s.curve), strict=True))) for n, s in zip(removed, subjects, strict=True)
        )

    best = min(divergence(r) for r in itertools.product(range(5), repeat=3) if sum(r) == wanted)
    assert divergence(allocated("sensitivity", subjects, wanted)) == pytest.approx(best)


def test_sensitivity_weighs_what_is_saved():
    curve = ((0, 0.0), (4, 1.0))
    dear = Subject(name="dear", scores=torch.zeros(5, dtype=torch.float64), curve=curve, cost=1.0)
    cheap = Subject(name="cheap", scores=torch.zeros(5, dtype=torch.float64), curve=curve, cost=10.0)
    free = Subject(name="free", scores=torch.zeros(5, dtype=torch.float64), curve=curve, cost=0.0)
    assert allocated("sensitivity", [free, dear, cheap], 4) == [0, 0, 4]
    assert allocated("sensitivity", [free, dear, cheap], 8) == [0, 4, 4]


def test_quantiles_are_of_each_or_of_all():
    subjects = made([11, 40], np.random.default_rng(4))
    uniform, over_network = (ALLOCATIONS.load(name)() for name in ("uniform", "global"))
    for q in (0.1, 0.9):
        own = [float(s.scores.quantile(q)) for s in subjects]
        assert uniform.thresholds(subjects, q) == pytest.approx(own)
        every = float(torch.cat([s.scores for s in subjects]).quantile(q))
        assert over_network.thresholds(subjects, q) == pytest.approx([every] * 2)
    assert not isinstance(ALLOCATIONS.load("sensitivity")(), Thresholding)
