"""What trained plans teach: the factor by which losses of bits were wrong beside those of what is removed."""

import pytest
from search_nets import Mixed, captured, profile_of

from trimtab.plan import Budget
from trimtab.search import Attempt, Judgement, Lesson, corrected, learnt, predicted, search, widest_plan
from trimtab.search.feedback import _predicted


@pytest.fixture(scope="module")
def profile():
    """Losses grow with what is removed and with what is rounded."""
    found = profile_of(captured(Mixed()), limited=("size",))
    units = []
    for number, unit in enumerate(found.units):
        options = tuple(
            option.model_copy(
                update={"loss": (1 + number % 3) * ((1 - option.kept / unit.width) ** 2 + 8 / sum(option.bits) ** 2)}
            )
            for option in unit.options
        )
        units.append(unit.model_copy(update={"options": options}))
    found = found.model_copy(update={"units": tuple(units)})
    return found.model_copy(update={"baseline": predicted(found, widest_plan(found))})


def attempt(profile, *, removed, rounded):
    """The best plan for half of the bytes, which after training loses so many times what was predicted."""
    tried = Attempt(plan=search(profile, Budget(size="30%")), judgement=Judgement(costs={}, drop=0.1))
    by_removal, by_bits = _predicted(profile, tried)
    assert min(by_removal, by_bits) > 0
    lesson = Lesson(removed=removed * by_removal, rounded=rounded * by_bits)
    return tried.model_copy(update={"lesson": lesson})


def test_parts_of_a_predicted_loss_add_up(profile):
    tried = attempt(profile, removed=1, rounded=1)
    assert sum(_predicted(profile, tried)) == pytest.approx(predicted(profile, tried.plan)["loss"])


@pytest.mark.parametrize(
    ("removed", "rounded", "factor"), [(0.1, 0.4, 4), (0.5, 0.1, 0.2), (1, 100, 8), (1, 0.01, 0.125)]
)
def test_losses_of_bits_are_set_right(profile, removed, rounded, factor):
    factors = learnt(profile, [attempt(profile, removed=removed, rounded=rounded)])
    assert factors.weights == factors.activations == pytest.approx(factor)
    assert (factors.depth, factors.early, factors.late) == (1, 1, 1)


def test_several_attempts_are_averaged(profile):
    both = [attempt(profile, removed=1, rounded=2), attempt(profile, removed=1, rounded=8)]
    assert learnt(profile, both).weights == pytest.approx(4)


def test_nothing_is_learnt_from_what_was_predicted_well_or_has_no_lesson(profile):
    assert learnt(profile, []) is None
    assert learnt(profile, [attempt(profile, removed=0.3, rounded=0.35)]) is None
    assert learnt(profile, [attempt(profile, removed=1, rounded=3).model_copy(update={"lesson": None})]) is None


def test_the_next_plan_rounds_less_where_rounding_was_worse_than_predicted(profile):
    def bits(plan):
        return sum(decision.weight.bits for decision in plan.layers)

    first = attempt(profile, removed=0.1, rounded=0.8)
    then = search(corrected(profile, learnt(profile, [first])), Budget(size="30%"))
    assert bits(then) > bits(first.plan) or sum(len(g.kept) for g in then.groups) < sum(
        len(g.kept) for g in first.plan.groups
    )
