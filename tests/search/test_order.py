"""Plans of the orders: what each may decide, and that a sequence is never better than the joint search predicts."""

import itertools

import pytest
from search_nets import Mixed, captured, profile_of

from trimtab.errors import ConfigError
from trimtab.plan import Budget, Options
from trimtab.search import predicted, search, search_in_order, stages_of, widest_plan

SEQUENCES = ("prune-then-quantize", "quantize-then-prune")


@pytest.fixture(scope="module", params=range(3))
def profile(request):
    """Losses grow with what is removed and with what is rounded, each unit by its own rate."""
    network = captured(Mixed())
    found = profile_of(network, seed=request.param, limited=("size",))
    units = []
    for number, unit in enumerate(found.units):
        rate = 1 + (number * 7 + request.param) % 5
        options = tuple(
            option.model_copy(update={"loss": rate * ((1 - option.kept / unit.width) ** 2 + 1 / sum(option.bits) ** 2)})
            for option in unit.options
        )
        units.append(unit.model_copy(update={"options": options}))
    found = found.model_copy(update={"units": tuple(units)})
    full = predicted(found, widest_plan(found))
    return found.model_copy(update={"baseline": {name: 4 * full[name] for name in ("size", "macs", "bops")}})


@pytest.mark.parametrize(("order", "share"), [*itertools.product(SEQUENCES, ("20%", "12%", "8%", "5%"))])
def test_a_sequence_keeps_the_limits_and_predicts_no_less_than_the_joint_search(profile, order, share):
    budget = Budget(size=share)
    joint, sequence = search(profile, budget), search_in_order(profile, budget, order)
    assert sequence is not None
    limit = budget.limits[0]
    assert predicted(profile, sequence)["size"] <= limit.bound(profile.baseline["size"]) * (1 + 1e-6)
    assert predicted(profile, sequence)["loss"] >= predicted(profile, joint)["loss"] * (1 - 2e-3)


def test_one_half_alone_leaves_the_other(profile):
    quantized = search_in_order(profile, Budget(size="15%"), "quantize-only")
    assert quantized.groups == ()
    assert quantized.branches == ()
    assert {decision.weight.bits for decision in quantized.layers} - {8}
    pruned = search_in_order(profile, Budget(size="60%"), "prune-only")
    assert pruned.layers == ()
    assert pruned.groups
    assert search_in_order(profile, Budget(size="2%"), "quantize-only") is None


def test_stages_end_with_the_plan_and_begin_with_one_half(profile):
    plan = search(profile, Budget(size="6%"))
    assert stages_of(plan, "joint") == (plan,)
    pruned, whole = stages_of(plan, "prune-then-quantize")
    assert (pruned.groups, pruned.layers, whole) == (plan.groups, (), plan)
    quantized, whole = stages_of(plan, "quantize-then-prune")
    assert (quantized.groups, quantized.layers, whole) == ((), plan.layers, plan)
    assert stages_of(quantized, "quantize-then-prune") == (quantized,)
    assert stages_of(quantized, "prune-then-quantize") == (quantized,)


def test_another_order_is_refused():
    with pytest.raises(ConfigError, match="order: Input should be 'joint'"):
        Options(order="both")
