"""`tt.prune`: the amount is reached, to the piece where the structure allows it; what is asked wrongly is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prune_nets import attention, gone, recurrent, residual, zeros
from torch import nn

import trimtab as tt
from trimtab.errors import ConfigError, TaskError
from trimtab.graph import capture, cut
from trimtab.measure import macs
from trimtab.plan import Count, Fraction, Plan, Quantile, Threshold, Weights
from trimtab.prune import CRITERIA
from trimtab.prune.granularity import piece_count
from trimtab.prune.masks import prunable
from trimtab.recover.batchnorm import reestimate_batchnorm
from trimtab.search import Curves, measure_curves
from trimtab.search.pruning.granularity import sparsity_of
from trimtab.stats import Stats, collect

FINE = tt.target("onnxruntime").model_copy(update={"channel_multiple": 1})
SHARE = st.floats(0.02, 0.8)
ALLOCATED = st.sampled_from(["uniform", "global", "erdos_renyi"])


@pytest.fixture(scope="module")
def network():
    return residual()


@pytest.fixture(scope="module")
def batches():
    return [(torch.randn(9, 3, 6, 6), torch.randint(5, (9,))) for _ in range(2)]


@settings(max_examples=8, deadline=None)
@given(SHARE, st.sampled_from(["uniform", "global"]))
def test_a_share_of_the_channels_is_reached_to_the_piece(network, share, allocation):
    plan = tt.prune(network, Fraction(removed=share), allocation=allocation, target=FINE)
    total = sum(group.width for group in network.groups)
    assert sum(gone(network, plan).values()) == int(np.ceil(share * total))
    tt.apply(network, plan)


def test_kernels_of_different_sizes_are_compared_by_the_mean_of_their_entries():
    """A 3×3 kernel of entries 1 sums to nine, a linear layer's single entry of 2 to four: the 3×3 leaves first."""
    mixed = residual()
    with torch.no_grad():
        for name, parameter in mixed.named_parameters():
            parameter.fill_(2.0 if name == "head.weight" else 1.0)
    plan = tt.prune(mixed, Count(removed=10), granularity="kernels", criterion="magnitude", allocation="global")
    assert plan.layers
    assert "head" not in {decision.layer for decision in plan.layers}


@settings(max_examples=12, deadline=None)
@given(SHARE, st.sampled_from(["weights", "kernels", "4x2"]), ALLOCATED)
def test_a_share_of_the_entries_is_reached_to_the_piece(network, share, granularity, allocation):
    plan = tt.prune(network, Fraction(removed=share), granularity=granularity, allocation=allocation)
    smaller = tt.apply(network, plan)
    pieces, empty = 0, 0
    kind = sparsity_of(granularity)(0.5)
    for parameter in prunable(network).values():
        shape = network.module.get_parameter(parameter).shape
        if granularity == "4x2" and (shape[0] % 4 or shape[1] % 2):
            assert zeros(smaller, parameter) == 0
            continue
        count = piece_count(shape, kind)
        pieces += count
        empty += zeros(smaller, parameter) * count // shape.numel()
        assert zeros(smaller, parameter) < shape.numel()
    assert empty == int(np.ceil(share * pieces))


@pytest.mark.parametrize(
    ("share", "allocation", "target"),
    [(0.31, "uniform", FINE), (0.5, "global", "onnxruntime"), (0.77, "global", FINE)],
    ids=lambda value: str(value)[:8],
)
def test_never_more_macs_stay_than_asked_and_no_step_could_be_given_back(network, share, allocation, target):
    plan = tt.prune(network, Fraction(removed=share, of="macs"), allocation=allocation, target=target)
    full = macs(network)
    assert macs(tt.apply(network, plan)) <= (1 - share) * full
    step = 4 if target == "onnxruntime" else 1
    removed = gone(network, plan)
    for name, n in removed.items():
        if n:
            kept = {other: network.group(other).width - m for other, m in removed.items()}
            kept[name] += step
            assert macs(cut(network, {other: range(m) for other, m in kept.items()})) > (1 - share) * full


def test_global_keeps_the_channels_that_a_sort_of_all_scores_keeps(network):
    plan = tt.prune(network, Fraction(removed=0.4), target=FINE)
    kept = {decision.group: decision.kept for decision in plan.groups}
    scores = {g.name: CRITERIA.load("magnitude")()(network, g, Stats()).values for g in network.groups}
    every = sorted(float(score) for values in scores.values() for score in values)
    threshold = every[int(np.ceil(0.4 * len(every)))]
    for group in network.groups:
        stays = tuple((scores[group.name] >= threshold).nonzero().flatten().tolist())
        assert kept.get(group.name, tuple(range(group.width))) == stays


def test_uniform_takes_the_same_share_of_each(network):
    plan = tt.prune(network, Fraction(removed=0.5), allocation="uniform", target=FINE)
    assert gone(network, plan) == {g.name: g.width // 2 for g in network.groups}
    weights = tt.prune(network, Fraction(removed=0.7), allocation="uniform", granularity="weights")
    for decision in weights.layers:
        assert decision.sparsity.fraction == pytest.approx(0.7, abs=1 / 40)


def test_widths_are_multiples_of_what_the_target_wants(network):
    for share in (0.1, 0.45, 0.7):
        assert all(n % 4 == 0 for n in gone(network, tt.prune(network, Fraction(removed=share))).values())


def test_a_count_is_what_leaves(network):
    plan = tt.prune(network, Count(removed=7), target=FINE)
    assert sum(gone(network, plan).values()) == 7
    weights = tt.prune(network, Count(removed=123), granularity="weights", criterion="magnitude_l1")
    smaller = tt.apply(network, weights)
    assert sum(zeros(smaller, parameter) for parameter in prunable(network).values()) == 123


@pytest.mark.parametrize("quantile", [0.25, 0.9])
def test_quantiles_are_local_with_uniform_and_one_with_global(network, quantile):
    values = {n: network.module.get_parameter(p).detach().abs() for n, p in prunable(network).items()}
    every = torch.cat([value.flatten() for value in values.values()]).quantile(quantile)
    for allocation in ("uniform", "global"):
        plan = tt.prune(
            network, Quantile(below=quantile), granularity="weights", criterion="magnitude_l1", allocation=allocation
        )
        smaller = tt.apply(network, plan)
        for name, value in values.items():
            low = value < (value.quantile(quantile) if allocation == "uniform" else every)
            found = smaller.module.get_parameter(prunable(network)[name]) == 0
            # The interpolation at the threshold may let one weight pass.
            assert int((found != low).sum()) <= 1


def test_a_threshold_removes_what_lies_below(network):
    plan = tt.prune(network, Threshold(below=0.05), granularity="weights", criterion="magnitude_l1")
    smaller = tt.apply(network, plan)
    for parameter in prunable(network).values():
        weight = network.module.get_parameter(parameter)
        assert torch.equal(smaller.module.get_parameter(parameter) == 0, weight.abs() < 0.05)
    assert tt.prune(network, Threshold(below=0.0)).groups == ()


def test_something_of_everything_is_left_when_all_lies_below(network):
    plan = tt.prune(network, Threshold(below=1e9), target=FINE)
    assert all(len(decision.kept) == 1 for decision in plan.groups)
    weights = tt.apply(network, tt.prune(network, Threshold(below=1e9), granularity="weights"))
    for parameter in prunable(network).values():
        weight = weights.module.get_parameter(parameter)
        assert int((weight != 0).sum()) == 1


def test_of_a_product_one_factor_is_cut():
    network = attention()
    assert network.products
    for allocation in ("uniform", "global"):
        plan = tt.prune(network, Fraction(removed=0.5), allocation=allocation, target=FINE)
        removed = gone(network, plan)
        for product in network.products:
            assert sum(any(removed[name] for name in factor) for factor in product) <= 1
        tt.apply(network, plan)
    heads, inner = network.products[0]
    left = tt.prune(network, Fraction(removed=0.5), allocation="uniform", leave=heads, target=FINE)
    assert not any(gone(network, left)[name] for name in heads)
    assert any(gone(network, left)[name] for name in inner)


def test_recurrent_matrices_lose_weights():
    network = recurrent()
    plan = tt.prune(network, Fraction(removed=0.6), granularity="weights", allocation="erdos_renyi")
    assert {decision.layer for decision in plan.layers} >= {"lstm.weight_ih_l0", "lstm.weight_hh_l0"}
    smaller = tt.apply(network, plan)
    total = sum(network.module.get_parameter(p).numel() for p in prunable(network).values())
    assert sum(zeros(smaller, p) for p in prunable(network).values()) == int(np.ceil(0.6 * total))


def test_two_of_four_where_inputs_are_a_multiple(network):
    plan = tt.prune(network, granularity="2:4", leave=["head"])
    assert [decision.layer for decision in plan.layers] == ["first.a", "first.b", "second.a", "second.b"]
    smaller = tt.apply(network, plan)
    for decision in plan.layers:
        blocks = smaller.module.get_parameter(decision.layer + ".weight").unflatten(1, (-1, 4))
        assert ((blocks != 0).sum(2) == 2).all()
    with pytest.raises(ConfigError, match="no layer's inputs are a multiple of 7, so that 3:7 fits nowhere"):
        tt.prune(network, granularity="3:7")


def test_branches_leave_by_score(network, batches):
    stats = collect(network, batches, nn.functional.cross_entropy, {"gradient"})
    options = {"granularity": "branches", "criterion": "taylor", "stats": stats}
    one = tt.prune(network, Count(removed=1), **options)
    scores = {b.name: CRITERIA.load("taylor")().branch(network, b, stats) for b in network.branches}
    assert [decision.branch for decision in one.branches] == [min(scores, key=scores.get)]
    both = tt.prune(network, Fraction(removed=0.8, of="macs"), **options)
    assert len(both.branches) == 2
    assert macs(tt.apply(network, both)) <= 0.2 * macs(network)


def test_what_is_left_alone_loses_nothing(network):
    plan = tt.prune(network, Fraction(removed=0.5), leave=["stem", "first.a"])
    assert gone(network, plan)["stem"] == gone(network, plan)["first.a"] == 0
    assert gone(network, plan)["second.a"] == 12
    weights = tt.prune(network, Fraction(removed=0.5), granularity="weights", leave=["head"])
    assert "head" not in {decision.layer for decision in weights.layers}


def test_a_criterion_with_statistics_decides(network, batches):
    stats = collect(network, batches, nn.functional.cross_entropy, {"gradient"})
    plan = tt.prune(network, Fraction(removed=0.5), criterion="taylor", stats=stats, target=FINE)
    group = network.group("second.a")
    order = CRITERIA.load("taylor")()(network, group, stats).values.argsort(descending=True).tolist()
    kept = next(decision.kept for decision in plan.groups if decision.group == "second.a")
    assert set(kept) == set(order[: len(kept)])
    weights = tt.prune(network, Fraction(removed=0.5), granularity="weights", criterion="taylor", stats=stats)
    assert {decision.criterion for decision in weights.layers} == {"taylor"}


def test_the_network_stays_as_it_is_and_the_plan_survives_json(network):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    plan = tt.prune(network, Fraction(removed=0.5), granularity="kernels", seed=3)
    assert Plan.from_json(plan.to_json(), where="plan.json") == plan
    assert plan.seed == 3
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


# ── sensitivity ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_curves_are_the_divergence_of_the_cut_network(batches):
    inputs = torch.cat([x for x, _ in batches])
    network = reestimate_batchnorm(residual(), [inputs])
    curves = measure_curves(network, batches, target=FINE)
    assert set(curves.points) == {group.name for group in network.groups}
    assert curves.points["second.a"][-1][0] == 19
    for name, points in curves.points.items():
        group = network.group(name)
        order = CRITERIA.load("magnitude")()(network, group, Stats()).values.argsort(descending=True, stable=True)
        assert points[0] == (0, 0.0)
        for pieces, divergence in points[1:]:
            smaller = cut(network, {name: order[: group.width - pieces].tolist()})
            with torch.no_grad():
                ours, theirs = smaller(inputs).double(), network(inputs).double()
            expected = (ours - theirs).square().mean() / theirs.var(correction=0)
            assert divergence == pytest.approx(float(expected), rel=1e-3)


def test_sensitivity_spares_what_matters(network, batches):
    """One block adds next to nothing: it loses all that it can before the others lose much."""
    quiet = reestimate_batchnorm(residual(), [torch.cat([x for x, _ in batches])])
    with torch.no_grad():
        quiet.module.get_parameter("second.b.weight").mul_(1e-4)
        quiet.module.get_parameter("second.b.bias").zero_()
    plan = tt.prune(quiet, Fraction(removed=0.35), allocation="sensitivity", batches=batches, target=FINE)
    assert gone(quiet, plan)["second.a"] == 14
    assert sum(gone(quiet, plan).values()) == 14
    removed = tt.prune(quiet, Count(removed=1), granularity="branches", allocation="sensitivity", batches=batches)
    assert [decision.branch for decision in removed.branches] == ["second"]
    weights = tt.prune(
        quiet, Fraction(removed=0.4), granularity="weights", allocation="sensitivity", batches=batches, leave=["head"]
    )
    fractions = {d.layer: d.sparsity.fraction for d in weights.layers if isinstance(d.sparsity, Weights)}
    assert fractions["second.a"] + fractions["second.b"] > 1  # which of the two comes first does not matter
    assert all(fractions.get(layer, 0) < 0.2 for layer in ("stem", "first.a", "first.b"))


def test_curves_are_measured_once_and_given_again(network, batches):
    curves = measure_curves(network, batches, target=FINE)
    again = Curves.from_json(curves.to_json(), where="curves.json")
    amount = Fraction(removed=0.6, of="macs")
    given = tt.prune(network, amount, allocation="sensitivity", curves=again, target=FINE)
    assert given == tt.prune(network, amount, allocation="sensitivity", batches=batches, target=FINE)
    assert macs(tt.apply(network, given)) <= 0.4 * macs(network)


def test_progress_says_how_many_are_measured(network, batches):
    class Seen:
        total = done = 0

        def stage(self, name, total=None):
            self.total = total
            return self

        def __enter__(self):
            return lambda steps=1: setattr(self, "done", self.done + steps)

        def __exit__(self, *_):
            return None

    seen = Seen()
    curves = measure_curves(network, batches, granularity="branches", progress=seen)
    assert seen.total == seen.done == sum(len(points) - 1 for points in curves.points.values()) == 2


def test_curves_of_something_else_are_refused(network, batches):
    curves = measure_curves(network, batches, granularity="branches")
    with pytest.raises(ConfigError, match=r"branches, '', asked is .*channels, 'magnitude'; measure them again"):
        tt.prune(network, Count(removed=1), allocation="sensitivity", curves=curves)
    coarse = measure_curves(network, batches)
    with pytest.raises(ConfigError, match="the curves do not reach the 7 pieces that stem can lose"):
        tt.prune(network, Count(removed=1), allocation="sensitivity", curves=coarse, target=FINE)
    with pytest.raises(TaskError, match="'sensitivity' measures on batches and got none"):
        tt.prune(network, Count(removed=1), allocation="sensitivity")


# ── bad input ───────────────────────────────────────────────────────────────────────────────────────────────────────

HALF = Fraction(removed=0.5)


@pytest.mark.parametrize(
    ("amount", "options", "message"),
    [
        (HALF, {"granularity": "chanels"}, "unknown granularity 'chanels'; known: channels, branches, weights"),
        (HALF, {"granularity": "0x4"}, "unknown granularity '0x4'"),
        (HALF, {"granularity": "4:2"}, "unknown granularity '4:2'"),
        (HALF, {"allocation": "fair"}, "unknown allocation 'fair'; known: erdos_renyi, global, sensitivity, uniform"),
        (HALF, {"criterion": "taste"}, "unknown criterion 'taste'; known: "),
        (HALF, {"criterion": "taylor"}, r"criterion 'taylor' needs statistics \(gradient\); give prune"),
        (
            HALF,
            {"criterion": "batchnorm_scale", "granularity": "weights"},
            "criterion 'batchnorm_scale' does not score single weights; known that do: ",
        ),
        (HALF, {"granularity": "branches"}, "criterion 'magnitude' does not score branches; known that do: "),
        (HALF, {"granularity": "2:4"}, "2:4 says itself how much it removes; leave the amount out"),
        (None, {}, "channels needs an amount; give Fraction"),
        (HALF, {"leave": ["stemm"]}, "leave: unknown group 'stemm'; near matches: stem"),
        (HALF, {"leave": ["heads"], "granularity": "weights"}, "leave: unknown layer 'heads'; near matches: head"),
        (HALF, {"leave": ["x"], "granularity": "branches"}, "leave: unknown branch 'x'; near matches: first, second"),
        (
            HALF,
            {"granularity": "branches", "allocation": "uniform", "criterion": "random"},
            "'uniform' has no share of one piece",
        ),
        (HALF, {"allocation": "erdos_renyi"}, "'erdos_renyi' goes by the shape of a layer's weight"),
        (HALF, {"granularity": "7x7"}, "no 7x7 here may be removed; `trimtab inspect`"),
        (HALF, {"leave": ["stem", "first.a", "second.a"]}, "no channels here may be removed"),
        (Count(removed=999), {}, r"999 of the 40 channels that count cannot be removed, at most 28 \(70.0%\)"),
        (Fraction(removed=0.95), {}, "95.0% of the 40 channels that count cannot be removed, at most 28"),
        (Fraction(removed=0.99, of="macs"), {}, "99.0% of the MACs cannot be removed by channels, at most"),
        (Fraction(removed=0.5, of="macs"), {"granularity": "weights"}, "zeros leave the MACs as they are"),
        (Quantile(below=0.5), {"allocation": "sensitivity"}, "got none; give batches"),
        (Quantile(below=0.5), {"allocation": "erdos_renyi", "granularity": "weights"}, "already says how much each"),
        (Threshold(below=0.5), {"allocation": "erdos_renyi", "granularity": "weights"}, "already says how much each"),
    ],
)
def test_what_is_asked_wrongly_is_refused_in_one_line(network, amount, options, message):
    with pytest.raises(tt.TrimtabError, match=message) as caught:
        tt.prune(network, amount, **options)
    assert "\n" not in str(caught.value)


def test_a_network_without_anything_to_prune_is_refused():
    fixed = capture(nn.Sequential(nn.Linear(3, 2)).eval(), torch.randn(3, 3))
    with pytest.raises(ConfigError, match="no channels here may be removed"):
        tt.prune(fixed, HALF)
