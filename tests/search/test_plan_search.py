"""From a profile to a plan, and back."""

from typing import get_args

import numpy as np
import pytest
from search_nets import Mixed, captured, profile_of, random_choice

from trimtab.errors import ConfigError
from trimtab.plan import Budget, GroupDecision, Order, Plan
from trimtab.search import (
    Judgement,
    Profile,
    anchored,
    find_fit,
    fitted,
    least,
    predicted,
    random_plans,
    search,
    widest_plan,
)
from trimtab.search.latency_table import needed_times
from trimtab.search.order import predicted_in_order, search_in_order
from trimtab.search.plan_search import choice_of, plan_of
from trimtab.search.profile import LatencyFit


@pytest.fixture(scope="module")
def profile():
    network = captured(Mixed())
    full = predicted(profile_of(network), widest_plan(profile_of(network)))
    return profile_of(network, baseline={name: 4 * full[name] for name in ("size", "macs", "bops")})


@pytest.mark.parametrize("seed", range(5))
def test_a_choice_comes_back_from_its_plan(profile, seed):
    choice = random_choice(profile, np.random.default_rng(seed))
    plan = plan_of(profile, choice)
    found = choice_of(profile, plan)
    assert plan_of(profile, found) == plan
    # Of what is in a removed branch the plan says nothing; everything else comes back as it was.
    removed = {decision.branch for decision in plan.branches}
    assert all(a == b or removed.intersection(u.within) for a, b, u in zip(choice, found, profile.units, strict=True))


def test_a_profile_comes_back_from_its_json(profile):
    timed = profile.model_copy(update={"latency_table": {"a": 0.25}, "overhead": {"size": 12.5}})
    assert Profile.from_json(timed.to_json(), where="profile.json") == timed


def test_a_plan_keeps_every_limit_and_gets_worse_as_they_tighten(profile):
    losses = []
    for share in (1.0, 0.6, 0.4, 0.3):
        budget = Budget(size=f"{25 * share}%", macs=f"{25 * share}%", bops=f"{25 * share}%")
        plan = search(profile, budget)
        assert plan is not None
        costs = predicted(profile, plan)
        for limit in budget.limits:
            assert costs[limit.quantity] <= limit.bound(profile.baseline[limit.quantity]) * (1 + 1e-6)
        losses.append(costs["loss"])
    assert losses == sorted(losses)
    assert losses[0] < losses[-1]


def test_one_limit_among_several_decides(profile):
    loose = predicted(profile, search(profile, Budget(size="90%", macs="8%")))
    assert loose["macs"] <= 0.08 * profile.baseline["macs"]
    assert search(profile, Budget(size="90%", macs="0.001%")) is None


def test_tightening_multiplies_the_bound(profile):
    tight = predicted(profile, search(profile, Budget(size="20%"), tighten={"size": 0.5}))
    assert tight["size"] <= 0.1 * profile.baseline["size"]


def test_the_smallest_is_within_reach_and_nothing_below_it(profile):
    for quantity in ("size", "macs", "bops"):
        lowest = least(profile, quantity)
        share = lowest / profile.baseline[quantity]
        plan = search(profile, Budget(**{quantity: f"{share * 1.001}x"}))
        assert plan is not None
        assert predicted(profile, plan)[quantity] == pytest.approx(lowest)
        assert search(profile, Budget(**{quantity: f"{share * 0.99}x"})) is None


def test_anchoring_sets_the_prediction_right(profile):
    widest = widest_plan(profile)
    set_right = anchored(profile, widest, {"size": 54321.0})
    assert predicted(set_right, widest)["size"] == pytest.approx(54321.0)


def test_the_latency_model_comes_back_from_times_that_it_made(profile):
    table = {key: 0.1 + (i % 7) for i, key in enumerate(sorted(needed_times(profile.units, profile.layers)))}
    plans = random_plans(profile, 24, seed=3)
    made = profile.model_copy(
        update={"latency_table": table, "latency_fit": LatencyFit(of_sum=0.7, of_layers=0.3, constant=2.0)}
    )
    found = fitted(
        profile.model_copy(update={"latency_table": table}), {p: predicted(made, p)["latency"] for p in plans}
    )
    fit = found.latency_fit
    assert (fit.of_sum, fit.of_layers, fit.constant) == pytest.approx((0.7, 0.3, 2.0))
    assert fit.worst_error < 1e-6


def test_random_plans_are_of_all_widths_and_depths(profile):
    plans = random_plans(profile, 40, seed=1)
    macs = [predicted(profile, plan)["macs"] for plan in plans]
    full = predicted(profile, widest_plan(profile))["macs"]
    assert min(macs) < 0.3 * full
    assert max(macs) > 0.7 * full
    assert {len(plan.branches) for plan in plans} >= {0, 1}
    assert all(decision.activation.bits == 8 for plan in plans for decision in plan.layers)


def test_the_widest_plan_removes_nothing_and_stores_all_layers_in_integers(profile):
    widest = widest_plan(profile)
    assert widest.groups == ()
    assert {decision.layer for decision in widest.layers} == {layer.name for layer in profile.layers}


def test_a_quantity_that_was_not_measured_is_refused(profile):
    for limit in ({"latency": "2ms"}, {"latency": "50%"}):
        with pytest.raises(ConfigError, match="latency was not measured in this profile; profile again"):
            search(profile, Budget(**limit))


def test_a_plan_that_is_not_on_offer_is_refused(profile):
    group = profile.units[0].group
    oddly = Plan(
        fingerprint=profile.fingerprint, target="onnxruntime", groups=(GroupDecision(group=group, kept=(0, 1, 2)),)
    )
    with pytest.raises(ConfigError, match=f"unit '{group}': width 3 with None is not an option of this profile"):
        predicted(profile, oddly)


class Judge:
    """An artifact that is larger than predicted by a factor, and needs memory in proportion to its size."""

    def __init__(self, profile, *, factor=1.0, memory=None):
        self.profile, self.factor, self.memory, self.seen = profile, factor, memory, []

    def __call__(self, plan):
        costs = predicted(self.profile, plan)
        self.seen.append(plan)
        size = costs["size"] * self.factor
        more = {} if self.memory is None else {"memory": self.memory * size}
        return Judgement(costs={"size": size, "macs": costs["macs"], "bops": costs["bops"], **more}, drop=0.5)


def test_fitting_tightens_until_the_artifact_fits(profile):
    budget = Budget(size="20%", drop=0.01)
    judge = Judge(profile, factor=1.2)
    plan = find_fit(profile, budget, profile.baseline, judge).plan
    assert judge(plan).costs["size"] <= 0.2 * profile.baseline["size"]
    assert len(judge.seen) > 2


@pytest.mark.parametrize("factor", [0.6, 0.8, 1.02, 1.3])
def test_fitting_uses_what_the_budget_leaves_wherever_the_prediction_errs(profile, factor):
    budget, limit = Budget(size="10%"), 0.1 * profile.baseline["size"]
    judge = Judge(profile, factor=factor)
    fit = find_fit(profile, budget, profile.baseline, judge)
    assert 0.97 * limit <= fit.judgement.costs["size"] <= limit
    assert fit.judgement.costs == judge(fit.plan).costs
    assert len(judge.seen) <= 7
    again = search(profile, fit.budget, tighten=fit.tighten)
    assert again == fit.plan


@pytest.mark.parametrize("order", get_args(Order))
def test_fitting_predicts_what_every_order_gives(profile, order):
    """An artifact of half the MACs that were predicted: less has to go."""
    full = predicted(profile, widest_plan(profile))["macs"]

    def measured(plan):
        return Judgement(costs={"macs": 0.5 * predicted_in_order(profile, plan, order)["macs"]}, drop=0.0)

    fit = find_fit(profile, Budget(macs=0.3 * full), profile.baseline, measured, order)
    if order == "quantize-only":
        assert fit is None
    else:
        assert fit.judgement.costs["macs"] <= 0.3 * full
        assert fit.plan == search_in_order(profile, Budget(macs=0.6 * full), order)


def test_fitting_halves_the_way_between_what_fits_and_what_does_not(profile):
    """An artifact in large steps, as of a runtime that is fast at some widths only."""

    class Steps(Judge):
        def __call__(self, plan):
            size = predicted(self.profile, plan)["size"]
            self.seen.append(plan)
            return Judgement(
                costs={"size": (1.1 if size > 0.19 * self.profile.baseline["size"] else 0.8) * size}, drop=0
            )

    judge, base = Steps(profile), profile.baseline
    fit = find_fit(profile, Budget(size="20%"), base, judge)
    assert fit.judgement.costs["size"] <= 0.2 * base["size"]
    sizes = [predicted(profile, plan)["size"] for plan in judge.seen]
    fitting = [size for size in sizes if size <= 0.19 * base["size"]]
    assert len(fitting) > 1
    assert predicted(profile, fit.plan)["size"] == max(fitting)


def test_fitting_shrinks_the_file_until_the_memory_fits(profile):
    baseline = {**profile.baseline, "memory": 10 * profile.baseline["size"]}
    judge = Judge(profile, memory=10.0)
    plan = find_fit(profile, Budget(memory="15%"), baseline, judge).plan
    assert judge(plan).costs["memory"] <= 0.15 * baseline["memory"]


def test_memory_that_cannot_be_measured_fits_nowhere(profile):
    assert find_fit(profile, Budget(memory="90%"), profile.baseline, Judge(profile)) is None


def test_nothing_fits_what_is_too_small(profile):
    assert find_fit(profile, Budget(size="0.01%"), profile.baseline, Judge(profile)) is None


def test_codes_of_wide_layers_are_found_by_a_single_sweep():
    network = captured(Mixed())
    narrow = profile_of(network, limited=("size",))
    choice = [min(range(len(u.options)), key=lambda i: sum(u.options[i].bits)) for u in narrow.units]
    assert {decision.solver for decision in plan_of(narrow, choice).layers} == {"joint"}
    wide = [
        layer.model_copy(update={"weights": tuple((1000 * c, n) for c, n in layer.weights)}) for layer in narrow.layers
    ]
    plan = plan_of(narrow.model_copy(update={"layers": tuple(wide)}), choice)
    assert {decision.solver for decision in plan.layers} == {"gptq"}
