"""Penalties against loops over single numbers and finite differences; gates against their distribution."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sparse_nets import batch, mixed, perceptron
from torch import nn

from trimtab.apply import apply
from trimtab.errors import ConfigError
from trimtab.graph import capture
from trimtab.plan import PER_CHANNEL, PER_TENSOR, LayerDecision, Penalty, Plan, Scheme
from trimtab.prune import PENALTIES
from trimtab.prune.penalties.l0 import HardConcrete
from trimtab.prune.penalties.strength import Strength
from trimtab.quant import WeightFakeQuantize

WEIGHTS = ("stem.weight", "body.weight", "lstm.weight_ih_l0", "lstm.weight_hh_l0", "head.weight")


def doubled():
    network = mixed(torch.float64)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_()
    return network, PENALTIES.load


def group_lasso_by_hand(network):
    value = 0.0
    parameters = {name: p.detach().numpy() for name, p in network.named_parameters()}
    for group in network.groups:
        for unit in range(group.width):
            squares, number = 0.0, 0
            for member in group.members:
                if member.parameter in parameters:
                    of_unit = (network.units(group, member) == unit).numpy()
                    taken = np.compress(of_unit, parameters[member.parameter], axis=member.dim)
                    squares, number = squares + (taken**2).sum(), number + taken.size
            value += math.sqrt(number * squares)
    return value


BY_HAND = {
    "l1": lambda network: sum(np.abs(dict(network.named_parameters())[n].detach().numpy()).sum() for n in WEIGHTS),
    "l2": lambda network: sum((dict(network.named_parameters())[n].detach().numpy() ** 2).sum() for n in WEIGHTS),
    "slimming": lambda network: sum(map(abs, dict(network.named_parameters())["bn.weight"].tolist())),
    "group_lasso": group_lasso_by_hand,
}


@pytest.mark.parametrize("kind", BY_HAND)
def test_value_by_hand_and_gradient_by_finite_differences(kind):
    network, load = doubled()
    term = load(kind)(network)
    assert float(term().detach()) == pytest.approx(BY_HAND[kind](network), rel=1e-12)
    term().backward()
    for name, parameter in network.named_parameters():
        for index in torch.randint(parameter.numel(), (2,)).tolist():
            flat, step = parameter.data.view(-1), 1e-6
            sides = []
            for sign in (1, -1):
                flat[index] += sign * step
                sides.append(BY_HAND[kind](network))
                flat[index] -= sign * step
            found = 0.0 if parameter.grad is None else float(parameter.grad.view(-1)[index])
            assert found == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize("kind", ["l1", "l2", "slimming", "group_lasso"])
def test_zeros_have_a_finite_gradient_and_are_negligible(kind):
    network, load = doubled()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.uniform_(0.5, 1)
    term = load(kind)(network)
    assert term.negligible() == 0
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    term().backward()
    assert all(p.grad is None or not bool(p.grad.any()) for p in network.parameters())
    assert term.negligible() == 1
    term.finish()


def test_negligible_is_the_share_of_its_pieces():
    network, load = doubled()
    parameters = dict(network.named_parameters())
    l1, lasso, slimming = (load(kind)(network) for kind in ("l1", "group_lasso", "slimming"))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1.0)
        parameters["stem.weight"].view(-1)[:72] = -0.0099
        parameters["bn.weight"][:4] = 0.005
    assert l1.negligible() == pytest.approx(72 / sum(parameters[n].numel() for n in WEIGHTS))
    assert slimming.negligible() == 0.5
    assert lasso.negligible() == 0
    group = network.group("stem")
    with torch.no_grad():
        for member in group.members:
            if member.parameter in parameters:
                unit = network.units(group, member)
                parameters[member.parameter].index_fill_(member.dim, (unit == 3).nonzero().squeeze(1), 1e-3)
    assert lasso.negligible() == pytest.approx(1 / sum(g.width for g in network.groups))


def gaussian():
    model = nn.Sequential(nn.Linear(6, 20), nn.Linear(20, 5))
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return capture(model, torch.randn(3, 6))


def in_codes(network, bits=3, granularity=PER_TENSOR):
    scheme = Scheme(grid="symmetric", bits=bits, granularity=granularity)
    layers = tuple(LayerDecision(layer=layer.name, weight=scheme) for layer in network.layers)
    return apply(network, Plan(fingerprint=network.fingerprint, target="onnxruntime", layers=layers))


@pytest.mark.parametrize("granularity", [PER_TENSOR, PER_CHANNEL])
def test_entropy_of_weights_on_the_grid_is_counted(granularity):
    """Each at its own code's bits; between two codes as far from each as it lies."""
    network = in_codes(gaussian(), granularity=granularity)
    term = PENALTIES.load("entropy")(network)
    roundings = {name: m for name, m in network.module.named_modules() if isinstance(m, WeightFakeQuantize)}
    bits = number = 0.0
    for (_, parameter), rounding in zip(
        [(n, p) for n, p in network.named_parameters() if n.endswith("weight")], roundings.values(), strict=True
    ):
        step = rounding.step().detach().reshape(-1, 1).expand(len(parameter), -1)
        positions = (parameter.detach().abs() / step).clamp(max=3).flatten().tolist()
        sizes = [round(position) for position in positions]
        costs = [-math.log2((sizes.count(size) + 1) / (len(sizes) + 4)) + (size > 0) for size in range(4)]
        costs = [max(costs[: size + 1]) for size in range(4)]
        for position in positions:
            below = min(math.floor(position), 2)
            bits += costs[below] + (position - below) * (costs[below + 1] - costs[below])
        number += len(sizes)
    assert float(term().detach()) == pytest.approx(bits, rel=1e-4)
    assert term.negligible() == pytest.approx(1 - bits / number / 3, rel=1e-3)


def test_entropy_draws_a_weight_to_zero_with_what_that_saves_over_the_way():
    """Also where the codes are all as rare, and beyond the last one."""
    network = in_codes(perceptron(60, 50), bits=4)
    rounding = next(m for m in network.module.modules() if isinstance(m, WeightFakeQuantize))
    weight = next(parameter for n, parameter in network.named_parameters() if n.endswith("weight"))
    step = float(rounding.step().detach())
    with torch.no_grad():
        weight.zero_()
        weight[0, :9] = step * torch.tensor([0.3, -0.8, 1.0, 2.0, -3.0, 4.0, 5.0, -6.5, 12.0])
    PENALTIES.load("entropy")(network)().backward()
    signed = weight.detach().flatten() / step
    sizes = signed.abs()
    codes = sizes.clamp(max=7).round().long().bincount(minlength=8).double() + 1
    bits = [max(-math.log2(n / codes.sum()) + (k > 0) for k, n in enumerate(codes[: size + 1])) for size in range(8)]
    for entry, size in enumerate(sizes[:9].tolist()):
        below = min(int(min(size, 7)), 6)
        saved = bits[below] + (min(size, 7) - below) * (bits[below + 1] - bits[below]) - bits[0]
        expected = math.copysign(saved / size / step, float(signed[entry]))
        assert float(weight.grad[0, entry]) == pytest.approx(expected, rel=1e-3), size
    assert not weight.grad[1:].any()


def test_entropy_draws_weights_to_cheap_codes_and_scales_up():
    network = in_codes(gaussian(), bits=4)
    term = PENALTIES.load("entropy")(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    first = float(term().detach())
    for _ in range(300):
        optimizer.zero_grad()
        term().backward()
        optimizer.step()
    assert float(term().detach()) < 0.1 * first
    assert term.negligible() > 0.8


def test_entropy_needs_weights_on_evenly_spaced_integers():
    with pytest.raises(ConfigError, match=r"penalty 'entropy' acts on weights that are rounded .* 'symmetric'"):
        PENALTIES.load("entropy")(perceptron(4, 3))


def test_hard_concrete_expectations_by_sampling():
    gate = HardConcrete(torch.zeros(5, dtype=torch.float64)).train()
    gate.log_alpha.data = torch.tensor([-4.0, -1.0, 0.0, 1.0, 4.0], dtype=torch.float64)
    with torch.no_grad():
        draws = torch.stack([gate.sample() for _ in range(10_000)])
        assert draws.min() == 0
        assert draws.max() == 1
        np.testing.assert_allclose((draws > 0).double().mean(0).numpy(), gate.open().numpy(), atol=0.025)
        # P(z < 1) from the binary concrete distribution's own law (Maddison et al. 2017): P(s < t) as a sigmoid
        t = (1 - -0.1) / (1.1 - -0.1)
        below = torch.sigmoid(2 / 3 * math.log(t / (1 - t)) - gate.log_alpha)
        np.testing.assert_allclose((draws < 1).double().mean(0).numpy(), below.numpy(), atol=0.025)
    gate.eval()
    s = 1 / (1 + np.exp(-gate.log_alpha.detach().numpy()))
    expected = np.minimum(1, np.maximum(0, s * 1.2 - 0.1))
    np.testing.assert_allclose(gate(torch.ones(5, dtype=torch.float64)).detach().numpy(), expected, rtol=1e-12)
    assert expected[0] == 0
    assert expected[4] == 1


def test_gradients_of_the_gates_by_finite_differences():
    gate = HardConcrete(torch.zeros(7, dtype=torch.float64)).train()
    gate.log_alpha.data.normal_()

    def value(log_alpha):
        torch.manual_seed(3)
        gate.log_alpha.data = log_alpha
        return float((gate(torch.arange(7.0, dtype=torch.float64)) + gate.open()).sum().detach())

    start = gate.log_alpha.detach().clone()
    torch.manual_seed(3)
    (gate(torch.arange(7.0, dtype=torch.float64)) + gate.open()).sum().backward()
    for i, unit in enumerate(torch.eye(7, dtype=torch.float64)):
        slope = (value(start + 1e-6 * unit) - value(start - 1e-6 * unit)) / 2e-6
        assert float(gate.log_alpha.grad[i]) == pytest.approx(slope, abs=1e-6)


def test_l0_leaves_the_network_as_it_was_until_gates_close_and_bakes_them_in():
    network, load = doubled()
    network.eval()
    x = batch(network, 0)[0].double()
    before, code, names = network(x), network.module.code, [n for n, _ in network.named_parameters()]
    groups = [(g.name, g.width, g.members) for g in network.groups]
    term = load("l0")(network)
    assert torch.equal(network(x), before)
    assert term.negligible() == 0
    assert [(g.name, g.width, g.members) for g in network.groups] == groups
    gates = {n: p for n, p in network.named_parameters() if n not in names}
    assert len(gates) == len(WEIGHTS)
    expected = sum(1 / (1 + math.exp(-(3 - 2 / 3 * math.log(0.1 / 1.1)))) * p.numel() for p in gates.values())
    assert float(term().detach()) == pytest.approx(expected)
    network.train()
    assert not torch.equal(network(x), network(x))
    with torch.no_grad():
        for gate in gates.values():
            gate.normal_(0, 3)
    share = term.negligible()
    network.eval()
    half_closed = network(x)
    assert not torch.equal(half_closed, before)
    term.finish()
    assert torch.equal(network(x), half_closed)
    assert [n for n, _ in network.named_parameters()] == names
    assert network.module.code == code
    zeros = sum(int((dict(network.named_parameters())[n] == 0).sum()) for n in WEIGHTS)
    assert 0.1 < share == pytest.approx(zeros / sum(dict(network.named_parameters())[n].numel() for n in WEIGHTS))


def test_a_shared_weight_has_one_gate():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(torch.tanh(self.layer(x)))

    network = capture(Tied(), torch.randn(2, 4))
    x = torch.randn(5, 4)
    term = PENALTIES.load("l0")(network)
    gates = [p for n, p in network.named_parameters() if "log_alpha" in n]
    assert [p.shape for p in gates] == [(4, 4)]
    gates[0].data.normal_(0, 3)
    before = network(x)
    term.finish()
    assert torch.equal(network(x), before)


@pytest.mark.parametrize("kind", sorted(PENALTIES))
def test_every_registered_penalty_makes_more_negligible_as_it_is_trained(kind):
    """The target hangs on two of twelve inputs; steps become small at the end, so that what is zero stays there."""
    torch.manual_seed(0)
    layers = (nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
    network = capture(nn.Sequential(*layers).eval(), torch.randn(4, 12))
    if kind == "entropy":
        network = in_codes(network, bits=8)
    network.train()
    x = torch.randn(256, 12)
    y = (x[:, 0] > x[:, 1]).long()
    term = PENALTIES.load(kind)(network)
    settings = Penalty(kind=kind, strength=3e-2 if kind == "slimming" else 1e-3, growth=1.7, until=0.3)
    strength = Strength(settings, term)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.03)
    start = term.negligible()
    for epoch in range(15):
        optimizer.param_groups[0]["lr"] = 0.03 * 0.6**epoch if kind != "l0" else 0.1
        for _ in range(15):
            optimizer.zero_grad()
            (F.cross_entropy(network(x), y) + strength.value * term()).backward()
            optimizer.step()
        strength.epoch_done()
    assert term.negligible() > start + 0.1
    term.finish()
    assert float((network.eval()(x).argmax(1) == y).double().mean()) > 0.8


def test_strength_grows_until_the_penalty_works_falls_when_it_does_too_much_and_is_resumed():
    class Term:
        share = 0.0

        def negligible(self):
            return self.share

    term = Term()
    strength = Strength(Penalty(kind="l1", strength=1e-4, growth=2.0, until=0.5), term)
    seen = []
    for term.share in (0.0, 0.49, 0.5, 0.54, 0.56, 0.9, 0.9, 0.2):
        strength.epoch_done()
        seen.append(strength.value)
    assert seen == [2e-4, 4e-4, 4e-4, 4e-4, 2e-4, 1e-4, 1e-4, 2e-4]
    other = Strength(Penalty(kind="l1", strength=1e-4), term)
    other.restore(strength.state())
    assert other.value == strength.value


def test_a_network_without_what_a_penalty_acts_on_is_refused():
    plain = capture(nn.Tanh(), torch.randn(2, 3))
    for kind in ("l1", "l2", "l0"):
        with pytest.raises(
            ConfigError, match=f"penalty '{kind}' acts on the weights of layers, and the network has none"
        ):
            PENALTIES.load(kind)(plain)
    with pytest.raises(ConfigError, match=r"'group_lasso' acts on the units of channel groups, .* choose 'l1'"):
        PENALTIES.load("group_lasso")(plain)
    with pytest.raises(ConfigError, match=r"'slimming' acts on the scales of BatchNorm .* choose 'group_lasso'"):
        PENALTIES.load("slimming")(perceptron(4, 4, 4))
    with pytest.raises(ConfigError, match="unknown penalty 'l3'; known: entropy, group_lasso, l0, l1, l2, slimming"):
        PENALTIES.load("l3")
