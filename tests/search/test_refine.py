"""Refinement, on a profile of which the true losses are known: its own with other multipliers, which are hidden."""

import sys
from itertools import islice

import numpy as np
import pytest
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from search_nets import captured, profile_of
from torch import nn

from trimtab.errors import ConfigError, MissingPackageError
from trimtab.plan import Budget, Scheme
from trimtab.search import Judgement, find_fit, predicted, refined, sampler, widest_plan
from trimtab.search.corrections import LEAST, MOST, Factors, corrected, parts, third
from trimtab.search.refine import FINALISTS, Ranking, candidates, winner
from trimtab.search.sampling import SAMPLERS
from trimtab.search.space import Option, Unit

BITS = ((32, 32), (8, 8), (4, 8), (4, 4), (2, 2))
BUDGET = Budget(size="9%", bops="1%")
NAMES = sorted(SAMPLERS)
TRIALS = 8

some_factors = st.builds(Factors, **{name: st.floats(LEAST, MOST) for name in Factors.model_fields})


def noise(option):
    """What is lost by rounding: four times as much for every bit that is missing."""
    return sum(4.0**-bits for bits in option.bits) * 20


class Small(nn.Module):
    """Five convolutions, two of them in a branch, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, padding=1)
        self.second = nn.Conv2d(32, 32, 3, padding=1)
        self.inner = nn.Conv2d(32, 32, 3, padding=1)
        self.outer = nn.Conv2d(32, 32, 3, padding=1)
        self.last = nn.Conv2d(32, 32, 3, padding=1)
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        x = F.relu(self.second(F.relu(self.first(x))))
        x = F.relu(x + self.outer(F.relu(self.inner(x))))
        return self.head(F.relu(self.last(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def profile():
    """Losses that fall with the width and with the bits, as measured ones do, of few options."""
    network = captured(Small())
    drawn = np.random.default_rng(1)
    units = []
    for unit in profile_of(network, limited=("bops",)).units:
        by_width, by_bits = drawn.uniform(0.1, 1.0), drawn.uniform(0.2, 2.0)
        options = tuple(
            option.model_copy(update={"loss": by_width * (1 - option.kept / unit.width) ** 2 + by_bits * noise(option)})
            for option in unit.options
            if option.bits in BITS and option.kept in (0, 1, 8, 16, 24, 32)
        )
        units.append(unit.model_copy(update={"options": options}))
    made = profile_of(network, units=tuple(units))
    full = predicted(made, widest_plan(made))
    baseline = {"size": 4 * full["size"], "macs": full["macs"], "bops": 16 * full["bops"]}
    return made.model_copy(update={"baseline": baseline})


class Truth:
    """A judge whose drop is a hidden loss."""

    def __init__(self, profile, factors, *, rows=None, last=10**9):
        self.profile, self.hidden, self.rows, self.last = profile, corrected(profile, factors), rows, last
        self.seen = []

    def loss(self, plan):
        return predicted(self.hidden, plan)["loss"]

    def __call__(self, plan):
        if len(self.seen) >= self.last:
            return None
        self.seen.append(plan)
        costs = {name: value for name, value in predicted(self.profile, plan).items() if name != "loss"}
        drop = self.loss(plan)
        return Judgement(costs=costs, drop=drop if self.rows is None else round(drop * self.rows) / self.rows)


def hidden_factors(seed):
    return next(islice(iter(sampler("random", seed=1000 + seed, trials=1).ask, None), 1))


def refine(profile, truth, name, *, seed=0, finals=None):
    last, truth.last = truth.last, 10**9
    fit = find_fit(profile, BUDGET, profile.baseline, truth)
    truth.last = last
    truth.seen.clear()
    chosen = sampler(name, seed=seed, trials=TRIALS)
    plan = refined(profile, fit, truth, finals, budget=BUDGET, baseline=profile.baseline, sampler=chosen, trials=TRIALS)
    return fit.plan, plan


@given(some_factors)
@settings(max_examples=20, deadline=None)
def test_the_parts_of_a_loss_add_up_and_are_multiplied(profile, factors):
    assert predicted(corrected(profile, Factors()), widest_plan(profile)) == pytest.approx(
        predicted(profile, widest_plan(profile))
    )
    for unit, changed in zip(profile.units, corrected(profile, factors).units, strict=True):
        place = getattr(factors, third(unit, profile.layers), 1.0)
        for option, part, other in zip(unit.options, parts(unit), changed.options, strict=True):
            assert min(part) >= 0
            assert sum(part) == pytest.approx(option.loss)
            removed = part.removed * (factors.depth if unit.branch else 1.0)
            multiplied = removed + factors.weights * part.weights + factors.activations * part.activations
            assert other.loss == pytest.approx(place * multiplied)


def test_bits_are_blamed_for_what_the_loss_rises_by_where_they_are_taken_away():
    losses = {(32, 32): 0.0, (8, 8): 0.1, (4, 8): 0.4, (4, 4): 0.5, (3, 4): 1.1}
    options = tuple(
        Option(
            kept=1,
            weight=Scheme(bits=weight) if weight < 32 else None,
            activation=Scheme(bits=activation) if activation < 32 else None,
            loss=loss,
        )
        for (weight, activation), loss in losses.items()
    )
    found = [list(part) for part in parts(Unit(name="u", options=options))]
    expected = [[0, 0, 0], [0.1, 0, 0], [0.1, 0.3, 0], [0.1, 0.3, 0.1], [0.1, 0.9, 0.1]]
    assert np.array(found) == pytest.approx(np.array(expected))


def test_units_lie_in_the_third_of_their_layers(profile):
    places = {unit.name: third(unit, profile.layers) for unit in profile.units}
    by_layer = {layer: places[unit.name] for unit in profile.units for layer in unit.layers}
    assert by_layer["first"] == "early"
    assert by_layer["last"] == by_layer["head"] == "late"
    assert by_layer["inner"] == "middle"


@pytest.mark.parametrize("name", NAMES)
def test_refinement_finds_less_true_loss_than_the_program_alone(profile, name):
    better, gained = [], []
    for seed in range(4):
        truth = Truth(profile, hidden_factors(seed))
        own, plan = refine(profile, truth, name, seed=seed)
        assert len(truth.seen) == len(set(truth.seen)) <= TRIALS
        for seen in truth.seen:
            costs = predicted(profile, seen)
            for limit in BUDGET.limits:
                assert costs[limit.quantity] <= limit.bound(profile.baseline[limit.quantity]) * (1 + 1e-6)
        best = find_fit(truth.hidden, BUDGET, profile.baseline, truth).plan
        assert truth.loss(plan) <= truth.loss(own)
        if truth.loss(best) < 0.99 * truth.loss(own):  # there is something to be found
            better.append(truth.loss(plan) < truth.loss(own))
            gained.append((truth.loss(own) - truth.loss(plan)) / (truth.loss(own) - truth.loss(best)))
    assert len(better) >= 3
    assert all(better)
    assert np.mean(gained) > 0.6


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_judges_the_same_plans(profile, name):
    seen = []
    for seed in (3, 3):
        truth = Truth(profile, hidden_factors(0))
        refine(profile, truth, name, seed=seed)
        seen.append(truth.seen)
    assert seen[0] == seen[1]


def test_between_equal_drops_the_divergence_decides_or_else_the_predicted_loss(profile):
    ranking = Ranking(profile, BUDGET, profile.baseline)
    fit = find_fit(profile, BUDGET, profile.baseline, Truth(profile, Factors()))
    other = widest_plan(profile)

    def value(plan, drop, *, size=0.0, divergence=None):
        costs = {"size": size * profile.baseline["size"], "bops": 0.0}
        return ranking(plan, Judgement(costs=costs, drop=drop, divergence=divergence))

    assert value(other, 0.0) < value(fit.plan, 0.0) < value(other, 1 / 4096)
    assert value(fit.plan, 0.0, divergence=0.1) < value(other, 0.0, divergence=0.2)
    assert value(fit.plan, 0.5) < value(other, -1e9, size=1.0)
    ordered = [value(other, 0.0), value(fit.plan, 0.0), value(other, 1 / 4096), value(other, 0.0, size=1.0)]
    assert sorted(each.number for each in ordered) == [each.number for each in ordered]


def test_plans_whose_artifacts_break_a_limit_are_never_chosen(profile):
    truth = Truth(profile, hidden_factors(0))
    fit = find_fit(profile, BUDGET, profile.baseline, truth)

    def judge(plan):
        judged = truth(plan)
        return judged.model_copy(update={"costs": judged.costs | {"size": profile.baseline["size"]}})

    found = candidates(
        Ranking(profile, BUDGET, profile.baseline), fit, judge, sampler("random", seed=0, trials=4), trials=4
    )
    assert found == [fit.plan]


def test_without_time_the_best_so_far_is_taken(profile):
    own, plan = refine(profile, Truth(profile, hidden_factors(0), last=1), "random", finals=lambda plan: None)
    assert plan == own
    short, long = (Truth(profile, hidden_factors(0), last=last) for last in (3, 7))
    _, early = refine(profile, short, "random", finals=lambda plan: None)
    _, late = refine(profile, long, "random", finals=lambda plan: None)
    assert long.seen[:3] == short.seen
    assert long.loss(late) <= long.loss(early)


def test_the_finals_are_among_the_best_and_the_programs_own(profile):
    truth = Truth(profile, hidden_factors(0))
    trained = []

    def finals(plan):
        trained.append(plan)
        return truth(plan).model_copy(update={"drop": -truth.loss(plan)})

    own, plan = refine(profile, truth, "random", finals=finals)
    judged = truth.seen[: -len(trained)]
    assert len(trained) == FINALISTS
    assert set(trained) == {own, *sorted({*judged, own} - {own}, key=truth.loss)[: FINALISTS - 1]}
    assert plan == max(trained, key=truth.loss)
    ranking = Ranking(profile, BUDGET, profile.baseline)
    fit = find_fit(profile, BUDGET, profile.baseline, truth)
    once = iter([truth(fit.plan), None])
    assert winner(ranking, fit, [fit.plan, widest_plan(profile)], lambda plan: next(once)) == fit.plan


def test_an_unknown_sampler_is_refused_with_the_list():
    with pytest.raises(ConfigError, match="unknown sampler 'luck'; known: evolutionary, grid, random, tpe"):
        sampler("luck", seed=0, trials=1)


def test_a_sampler_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "trimtab.search.sampling.learning", raising=False)
    with pytest.raises(MissingPackageError, match=r"sampler 'tpe' needs the package 'optuna'; .*trimtab\[search\]"):
        sampler("tpe", seed=0, trials=1)


def test_the_grid_ends(profile):
    grid = sampler("grid", seed=0, trials=1)
    points = list(iter(grid.ask, None))
    assert len(points) == len(set(points)) == 3 ** len(Factors.model_fields)
    changed = [sum(value != 1 for value in point.model_dump().values()) for point in points]
    assert changed == sorted(changed)
    assert changed[0] == 0
