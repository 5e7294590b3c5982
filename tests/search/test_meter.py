"""Losses of single options against networks that were really cut, removed and rounded; and what is filled in."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trimtab.apply import apply
from trimtab.graph import capture, remove
from trimtab.lower import target
from trimtab.measure import divergence, outputs_of
from trimtab.plan import GroupDecision, LayerDecision, Plan
from trimtab.recover import repair, settle
from trimtab.recover.batchnorm import reestimate_batchnorm
from trimtab.recover.reconstruct import trials
from trimtab.search.filling import filled, filling_error, to_measure
from trimtab.search.meter import Meter
from trimtab.search.repairs import find_repairs
from trimtab.search.space import Bits, narrower, units_of

RUNTIME = target("onnxruntime")


class Blocks(nn.Module):
    """A stem, a residual block with batch norm, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.one = nn.Conv2d(8, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.two = nn.Conv2d(16, 8, 3, padding=1, bias=False)
        self.after = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.relu(x + self.after(self.two(F.relu(self.norm(self.one(x))))))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = Blocks()
    for _ in range(20):
        model(torch.randn(64, 3, 8, 8))
    with torch.no_grad():
        model.norm.weight.uniform_(0.5, 1.5)
        model.norm.bias.uniform_(-0.5, 0.5)
    return capture(model.eval(), torch.randn(3, 3, 8, 8))


@pytest.fixture(scope="module")
def batches():
    torch.manual_seed(1)
    return [torch.randn(64, 3, 8, 8) for _ in range(4)]


@pytest.fixture(scope="module")
def units(network):
    orders = {group.name: tuple(reversed(range(group.width))) for group in network.groups}
    return units_of(network, RUNTIME, orders, narrower({"size"}, RUNTIME))


@pytest.fixture(scope="module")
def meter(network, batches, units):
    torch.manual_seed(2)
    return Meter(network, RUNTIME, units, seen=[torch.randn(128, 3, 8, 8)], adjusting=batches)


def unit_of(units, name):
    return next(unit for unit in units if unit.name == name)


def option_of(unit, kept, bits):
    return next(option for option in unit.options if (option.kept, option.bits) == (kept, bits))


def plan_of(network, **decided):
    return Plan(fingerprint=network.fingerprint, target="onnxruntime", **decided)


def test_units_are_groups_with_their_only_writer_layers_of_their_own_and_branches(network, units):
    assert {unit.name for unit in units if unit.branch} == {branch.name for branch in network.branches}
    inner = unit_of(units, "one")
    assert (inner.layers, inner.width, len(inner.within)) == (("one",), 16, 1)
    assert {o.bits for o in inner.options} == {(32, 32), (8, 8), (4, 8), (2, 8)}
    stream = next(unit for unit in units if unit.group and unit.width == 8)
    assert stream.layers == ()
    assert {unit.layers for unit in units if not unit.group and not unit.branch} == {("stem",), ("two",), ("head",)}


def test_bits_on_offer_are_those_that_save_something():
    assert narrower({"macs", "latency"}, RUNTIME) == ()
    assert narrower({"size"}, RUNTIME) == (Bits(4, 8), Bits(2, 8))
    assert narrower({"size"}, target("executorch")) == ()
    assert {bits.activations for bits in narrower({"bops"}, RUNTIME)} == {8, 4, 3, 2}
    paid = narrower({"stored_size", "drop"}, target("executorch"))
    assert {(bits.weights, bits.activations) for bits in paid} == {(8, 8)}
    assert [bits.price for bits in paid] == sorted(bits.price for bits in paid)


def test_codes_that_cost_more_take_fewer_bits_and_lose_more(network, batches):
    orders = {group.name: tuple(range(group.width)) for group in network.groups}
    units = units_of(network, RUNTIME, orders, narrower({"stored_size"}, RUNTIME))
    meter = Meter(network, RUNTIME, units, seen=[torch.randn(128, 3, 8, 8)], adjusting=batches)
    unit = unit_of(units, "one")
    whole = [option for option in unit.options if option.kept == unit.width and option.weight is not None]
    whole.sort(key=lambda option: option.fineness, reverse=True)
    assert [option.price > 0 for option in whole] == [False, *[True] * (len(whole) - 1)]
    bits = [meter.stored_bits(unit, option) for option in whole]
    losses = [meter.loss(unit, option) for option in whole]
    assert bits == sorted(bits, reverse=True)
    assert bits[-1] < 2.5 < 6 < bits[0] < 8
    assert losses[1] < losses[-2] < losses[-1]


def test_bits_foreseen_are_those_of_the_codes_that_the_plan_ends_with(network, batches):
    """The same layer solved by `repair`, in the whole network; the head is solved on what its stem still gives."""
    orders = {group.name: tuple(range(group.width)) for group in network.groups}
    units = units_of(network, RUNTIME, orders, narrower({"stored_size"}, RUNTIME))
    meter = Meter(network, RUNTIME, units, seen=batches[:1], adjusting=batches)
    unit = unit_of(units, "one")
    option = next(o for o in unit.options if o.kept == unit.width and o.price == 1.6e-5)
    decided = {"weight": option.weight, "activation": option.activation, "price": option.price}
    plan = plan_of(network, layers=(LayerDecision(layer="one", solver="rate_distortion", **decided),))
    solved = repair(apply(network, plan), network, plan, batches)
    weight = solved.module.get_parameter("one.weight")
    codes = solved.module.get_submodule("fake_quantize.one_weight").codes(weight)
    share = torch.unique(codes, return_counts=True)[1].double() / codes.numel()
    assert meter.stored_bits(unit, option) == pytest.approx(float(-(share * share.log2()).sum()), rel=0.05)


def test_an_integer_kernel_loses_what_the_network_with_this_layer_alone_rounded_loses(network, batches, units, meter):
    option = option_of(unit_of(units, "one"), 16, (8, 8))
    decision = LayerDecision(layer="one", weight=option.weight, activation=option.activation)
    rounded = settle(apply(network, plan_of(network, layers=(decision,))), batches).eval()
    assert meter.loss(unit_of(units, "one"), option) == pytest.approx(
        divergence(outputs_of(rounded, meter.seen), meter.reference), rel=1e-4
    )
    assert meter.loss(unit_of(units, "one"), option_of(unit_of(units, "one"), 16, (32, 32))) == 0.0


def test_a_cut_loses_what_the_cut_network_with_its_reader_set_anew_loses(network, batches, units, meter):
    unit = unit_of(units, "one")
    option = option_of(unit, 8, (32, 32))
    kept = tuple(sorted(unit.order[:8]))
    smaller = apply(network, plan_of(network, groups=(GroupDecision(group="one", kept=kept),))).eval()
    state = find_repairs(network, batches, [unit], {}).readers["one", 8]
    for name, value in smaller.state_dict().items():
        if name in state:
            new = state[name][:, list(kept)] if name == "two.weight" else state[name]
            value.copy_(new)
    loss = meter.loss(unit, option)
    assert loss == pytest.approx(divergence(outputs_of(smaller, meter.seen), meter.reference), rel=1e-4)
    alone = apply(network, plan_of(network, groups=(GroupDecision(group="one", kept=kept),))).eval()
    assert loss < divergence(outputs_of(alone, meter.seen), meter.reference)


def test_the_reader_of_fewer_channels_is_the_least_squares_solution(network, batches, units):
    unit = unit_of(units, "one")
    state = find_repairs(network, batches, [unit], {}).readers["one", 12]
    trial = next(trial for trial in trials(network, batches) if trial.problem.name == "two")
    gram = trial.problem.moments.gram[0].numpy()
    cross = trial.problem.moments.cross[0].numpy()
    old = trial.problem.weight[0].numpy()
    left = np.isin(np.repeat(np.arange(16), 9), unit.order[:12])
    pull = 1e-2 * np.diag(gram).mean() * np.eye(len(gram))
    wanted = np.zeros_like(old)
    wanted[:, left] = np.linalg.solve((gram + pull)[left][:, left], (cross + old @ pull)[:, left].T).T
    assert state["two.weight"].flatten(1).numpy() == pytest.approx(wanted, abs=1e-5)


def test_a_trial_leaves_the_network_as_it_was(network, batches):
    for trial in trials(network, batches):
        before = {name: value.clone() for name, value in trial.network.state_dict().items()}
        assert set(trial.changed(2 * trial.problem.weight)) >= {f"{trial.problem.name}.weight"}
        assert all(torch.equal(value, before[name]) for name, value in trial.network.state_dict().items())


def test_a_branch_loses_what_the_network_without_it_loses(network, batches, units, meter):
    unit = next(unit for unit in units if unit.branch)
    without = reestimate_batchnorm(remove(network, [unit.branch]), meter.adjusting).eval()
    assert meter.loss(unit, option_of(unit, 0, (32, 32))) == pytest.approx(
        divergence(outputs_of(without, meter.seen), meter.reference), rel=1e-5
    )
    assert meter.loss(unit, option_of(unit, 1, (32, 32))) == 0.0


def test_fewer_bits_lose_more_and_the_solver_less_than_the_nearest_codes(network, batches, units, meter):
    unit = unit_of(units, "two (storage)")
    losses = {bits: meter.loss(unit, option_of(unit, 1, bits)) for bits in ((8, 8), (4, 8), (2, 8))}
    assert losses[8, 8] < losses[4, 8] < losses[2, 8]
    option = option_of(unit, 1, (2, 8))
    decision = LayerDecision(layer="two", weight=option.weight, activation=option.activation)
    nearest = settle(apply(network, plan_of(network, layers=(decision,))), batches).eval()
    assert losses[2, 8] < divergence(outputs_of(nearest, meter.seen), meter.reference)


def test_what_is_measured_and_what_is_filled_in(units):
    unit = unit_of(units, "one")
    measured = to_measure(unit, 0)
    assert {o.kept for o in measured if o.bits == (8, 8)} == {o.kept for o in unit.options}
    assert {o.bits for o in measured if o.kept == 16} == {(32, 32), (8, 8), (4, 8), (2, 8)}
    checked = [o for o in measured if o.kept < 16 and o.bits in {(4, 8), (2, 8)}]
    assert len(checked) == 1
    losses = {o: (16 - o.kept) / 16 + 1 / o.bits[0] for o in measured if o.weight is not None}
    losses[checked[0]] *= 2
    result = filled(unit, losses)
    for option in result.options:
        expected = (16 - option.kept) / 16 + 1 / option.bits[0]
        twice = (option.kept, option.bits) == (checked[0].kept, checked[0].bits)
        assert option.loss == pytest.approx(2 * expected if twice else expected)
    assert result.filling == pytest.approx((2.0,))
    assert filling_error([result]) == pytest.approx(0.5)
    assert filling_error([unit]) is None
