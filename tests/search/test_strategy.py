"""The loop as a pure function, on judgements made by hand."""

import math

from hypothesis import given
from hypothesis import strategies as st

from trimtab.plan import Budget, GroupDecision, Limit, Plan
from trimtab.search import Attempt, Judgement, Rung, best_of, nearest_rung, propose

BASELINE = {"size": 1000.0, "macs": 100.0, "metric": 0.9}


def plan(number):
    return Plan(fingerprint="f", target="t", groups=(GroupDecision(group="g", kept=tuple(range(number + 1))),))


def judged(size, drop, **costs):
    return Judgement(costs={"size": float(size), **costs}, drop=drop)


def ladder(*drops):
    """Rungs of falling size: 200, 190, … bytes."""
    sizes = [200 - 10 * i for i in range(len(drops))]
    return [
        Rung(fraction=size / 200, plan=plan(size), judgement=judged(size, drop))
        for size, drop in zip(sizes, drops, strict=True)
    ]


def play(budget, rungs, trained_drop, *, trains=True, rounds=None, fitting=lambda: None):
    """Let the loop run, with the drop after training given by the plan's size (and how often it was trained)."""
    tried = []
    more = {"trains": trains, "rounds": rounds}
    fits = fitting if fitting.__code__.co_argcount else lambda _: fitting()
    while proposal := propose(budget, BASELINE, rungs, tried, fits, lambda size: plan(int(size)), **more):
        size = len(proposal.plan.groups[0].kept) - 1
        drop = trained_drop(size, len(tried))
        tried.append(Attempt(plan=proposal.plan, judgement=judged(size, drop), continues=proposal.continues))
        assert len(tried) <= (rounds or 30)
    return tried


@given(least=st.integers(20, 200), drops=st.lists(st.floats(0, 0.5), min_size=1, max_size=8))
def test_a_limit_on_the_drop_alone_finds_nearly_the_smallest_that_keeps_it(least, drops):
    tried = play(Budget(drop=0.01), ladder(*drops), lambda size, _: 0.0 if size >= least else 0.4)
    best = tried[best_of(Budget(drop=0.01), BASELINE, tried)]
    assert least <= best.judgement.costs["size"] <= max(1.08 * least, least + 2)
    assert len({attempt.plan for attempt in tried}) == len(tried)  # nothing is tried twice


def test_the_loop_ends_when_nothing_keeps_the_drop():
    rungs = ladder(0.1, 0.2, 0.3)
    tried = play(Budget(drop=0.0), rungs, lambda *_: 0.1)
    assert rungs[0].plan in [attempt.plan for attempt in tried]


def test_without_training_the_smallest_rung_that_keeps_the_drop_is_taken_at_once():
    rungs = ladder(0.0, 0.01, 0.02, 0.01, 0.3)
    drops = {int(rung.judgement.costs["size"]): rung.judgement.drop for rung in rungs}
    tried = play(Budget(drop=0.01), rungs, lambda size, _: drops[size], trains=False)
    assert [attempt.plan for attempt in tried] == [rungs[3].plan]


def test_rounds_bound_the_tries():
    rungs = ladder(*[0.0] * 9)
    assert len(play(Budget(drop=0.01), rungs, lambda *_: 0.4, rounds=2)) == 2


def test_limits_on_costs_train_on_until_the_drop_is_kept():
    budget = Budget(drop=0.01, size="10%")
    tried = play(budget, ladder(0.0), lambda _, number: 0.04 - 0.015 * number, fitting=lambda: plan(7))
    assert [attempt.plan for attempt in tried] == [plan(7)] * 3
    assert [attempt.continues for attempt in tried] == [None, 0, 1]
    assert best_of(budget, BASELINE, tried) == 2


def test_limits_on_costs_stop_when_rounds_are_used_up_or_nothing_is_trained():
    budget = Budget(drop=0.0, size="10%")
    assert len(play(budget, ladder(0.0), lambda *_: 0.3, fitting=lambda: plan(7), rounds=3)) == 3
    assert len(play(budget, ladder(0.0), lambda *_: 0.3, fitting=lambda: plan(7), trains=False)) == 1


def test_where_the_profile_was_wrong_another_plan_is_tried_and_then_the_best_trained_on():
    budget = Budget(drop=0.01, size="10%")
    tried = play(
        budget,
        ladder(0.0),
        lambda size, number: {90: 0.05, 80: 0.04 - 0.01 * number}[size],
        fitting=lambda tried: plan(90) if not tried else plan(80),
    )
    assert [attempt.plan for attempt in tried] == [plan(90), plan(80), plan(80), plan(80)]
    assert [attempt.continues for attempt in tried] == [None, None, 1, 2]


def test_nothing_is_proposed_when_no_plan_fits():
    assert play(Budget(size="1%"), ladder(0.0), lambda *_: 0.0) == []


def test_a_limit_that_was_not_measured_is_broken():
    budget = Budget(memory="1MB", drop=0.1)
    assert judged(10, 0.0).broken(budget, BASELINE) == [budget.limit("memory")]
    assert judged(10, 0.0, memory=5e5).broken(budget, BASELINE) == []


def test_a_relative_limit_without_a_baseline_is_broken():
    budget = Budget(memory="50%")
    assert judged(10, 0.0, memory=1.0).broken(budget, {}) == list(budget.limits)


def test_rounding_does_not_break_a_limit():
    drop = 0.97 - 0.96
    assert drop > 0.01
    assert judged(10, drop).broken(Budget(drop=0.01), BASELINE) == []
    assert judged(10, math.nextafter(0.01, 1)).broken(Budget(drop=0.01), BASELINE) == []
    assert judged(10, 0.010001).broken(Budget(drop=0.01), BASELINE) == [Limit(quantity="drop", at_most=0.01)]


def test_the_best_breaks_the_fewest_limits_then_drops_least_beyond_its_limit_then_is_smallest():
    budget = Budget(drop=0.02, size="10%")

    def best(*judgements):
        return best_of(budget, BASELINE, [Attempt(plan=plan(0), judgement=j) for j in judgements])

    assert best(judged(99, 0.05), judged(101, 0.05), judged(99, 0.02)) == 2
    assert best(judged(99, 0.06), judged(99, 0.05)) == 1
    assert best(judged(99, 0.0), judged(80, 0.02), judged(90, 0.0)) == 1
    assert (
        best_of(Budget(size="10%"), BASELINE, [Attempt(plan=plan(0), judgement=judged(90, d)) for d in (0.3, 0.1)]) == 1
    )


def test_the_nearest_rung_is_the_smallest_that_keeps_the_drop():
    rungs = ladder(0.0, 0.01, 0.2, 0.4)
    assert nearest_rung(Budget(drop=0.01, size="1%"), BASELINE, rungs) == rungs[1]
    assert nearest_rung(Budget(size="1%"), BASELINE, rungs) == rungs[3]
    lossy = ladder(0.3, 0.2, 0.25)
    assert nearest_rung(Budget(drop=0.01, size="1%"), BASELINE, lossy) == lossy[1]
