"""Criteria against loops over single weights, and against really leaving a unit out."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimtab.errors import ConfigError, NumericsError
from trimtab.graph import capture
from trimtab.prune import CRITERIA
from trimtab.prune.criteria import obs
from trimtab.prune.criteria.magnitude import Magnitude
from trimtab.prune.criteria.taylor import Taylor
from trimtab.stats import Stats, collect


class Net(nn.Module):
    """A residual stream with two producers and three readers, an inner group, and a flatten before the head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.inner, self.bn1 = nn.Conv2d(6, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5)
        self.outer, self.bn2 = nn.Conv2d(5, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.head = nn.Linear(6 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn0(self.stem(x)))
        x = x + self.bn2(self.outer(F.relu(self.bn1(self.inner(x)))))
        return self.head(F.max_pool2d(F.relu(x), 2).flatten(1))


def make_network():
    model = Net().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor.copy_(torch.randn_like(tensor))
            module.running_var.uniform_(0.5, 2)
    return capture(model, torch.randn(5, 2, 4, 4))


def make_batches(number=3):
    return [(torch.randn(7, 2, 4, 4), torch.randint(3, (7,))) for _ in range(number)]


def test_magnitude_is_the_norm_of_what_makes_a_unit_over_those_that_are_left():
    network = make_network()
    parameters = dict(network.named_parameters())
    for group in network.groups:
        squares = [0.0] * group.width
        for member in (m for m in group.members if m.role == "out"):
            for position, unit in enumerate(network.units(group, member).tolist()):
                for value in parameters[member.parameter].select(member.dim, position).flatten().tolist():
                    squares[unit] += value**2 if unit >= 0 else 0
        readers = {"stem": 2, "inner": 1}[group.name]
        expected = [readers * s / sum(other for other in squares if other >= s) for s in squares]
        scores = Magnitude()(network, group, Stats())
        assert scores.group == group.name
        assert scores.values.tolist() == pytest.approx(expected)


def test_magnitude_does_not_see_a_layers_scale_but_its_weak_unit():
    network = make_network()
    weights = dict(network.named_parameters())
    group = network.group("inner")
    before = Magnitude()(network, group, Stats()).values
    with torch.no_grad():
        weights["inner.weight"].mul_(1e3)
    torch.testing.assert_close(Magnitude()(network, group, Stats()).values, before)
    with torch.no_grad():
        weights["inner.weight"][3] *= 1e-3
    assert Magnitude()(network, group, Stats()).values.argmin() == 3
    with torch.no_grad():
        weights["inner.weight"].zero_()
    assert Magnitude()(network, group, Stats()).values.tolist() == [0.0] * 5


def test_taylor_is_the_mean_size_of_the_batches_contributions():
    network, batches = make_network(), make_batches(4)
    stats = collect(network, batches, F.cross_entropy, Taylor.needs)
    parameters = dict(network.named_parameters())
    network.eval()
    for group in network.groups:
        expected = [0.0] * group.width
        for x, y in batches:
            loss = F.cross_entropy(network(x), y)
            gradients = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
            totals = [0.0] * group.width
            for member in (m for m in group.members if m.role == "in"):
                products = (parameters[member.parameter] * gradients[member.parameter]).detach()
                for position, unit in enumerate(network.units(group, member).tolist()):
                    totals[unit] += products.select(member.dim, position).sum().item() if unit >= 0 else 0
            expected = [e + abs(t) / len(batches) for e, t in zip(expected, totals, strict=True)]
        values = Taylor()(network, group, stats).values
        assert values.tolist() == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_taylor_foresees_the_loss_without_a_unit():
    """For a unit whose readers are tiny the loss is linear in it, and the estimate must be right in size."""
    network, batches = make_network(), make_batches(1)
    weights = dict(network.named_parameters())
    with torch.no_grad():
        weights["outer.weight"][:, 2] *= 1e-3
    group = network.group("inner")
    estimate = Taylor()(network, group, collect(network, batches, F.cross_entropy, Taylor.needs)).values[2].item()
    with torch.no_grad():
        (x, y), full = batches[0], network.clone()
        full.eval()
        with_unit = F.cross_entropy(full(x), y).item()
        dict(full.named_parameters())["outer.weight"][:, 2] = 0
        without = F.cross_entropy(full(x), y).item()
    assert estimate == pytest.approx(abs(without - with_unit), rel=0.05, abs=1e-6)


def test_bad_input_is_named():
    network = make_network()
    with pytest.raises(ConfigError, match="inner: the statistic 'gradient' was not collected"):
        Taylor()(network, network.group("inner"), Stats())
    with torch.no_grad():
        dict(network.named_parameters())["inner.weight"][1, 0] = float("nan")
    with pytest.raises(NumericsError, match="inner: the score of unit"):
        Magnitude()(network, network.group("inner"), Stats())
    with pytest.raises(ConfigError, match="unknown criterion 'taylr'; known: ablation, activation"):
        CRITERIA.load("taylr")


def surgery_errors(network, stats, left):
    """The least squared errors behind the norms of both readers of the stream when only the units `left` are there."""
    errors = []
    for name, norm, columns in (("inner", "bn1", 9), ("head", None, 4)):
        weight = network.module.get_parameter(f"{name}.weight").detach().double().flatten(1)
        gram = stats.gram("gram", f"{name}.weight")[0]
        gram = gram + 1e-4 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
        at = torch.cat([torch.arange(unit * columns, (unit + 1) * columns) for unit in left])
        solved = torch.zeros_like(weight)
        solved[:, at] = torch.linalg.lstsq(gram[at][:, at], gram[at] @ weight.T, driver="gelsd").solution.T
        away = solved - weight
        gain = torch.ones(len(weight), dtype=torch.float64)
        if norm:
            module = network.module.get_submodule(norm)
            gain = (module.weight / (module.running_var + 1e-5).sqrt()).detach().double()
        errors.append(float((((away @ gram) * away).sum(1) * gain.square()).sum()))
    return errors


def test_obs_takes_the_unit_that_brute_force_takes_over_all_readers():
    network = make_network()
    stats = collect(network, [(torch.randn(64, 2, 4, 4), None)], None, {"gram"})
    group = next(group for group in network.groups if group.width == 6)
    values = CRITERIA.load("obs")()(network, group, stats).values.tolist()
    left, dearest, before = set(range(6)), 0.0, 0.0
    while len(left) > 1:
        after = {unit: sum(surgery_errors(network, stats, sorted(left - {unit}))) for unit in left}
        unit = min(after, key=after.__getitem__)
        dearest = max(dearest, after[unit] - before)
        assert values[unit] == pytest.approx(dearest, rel=1e-6)
        before = after[unit]
        left.remove(unit)


def test_obs_prices_units_alone_where_many_layers_read_them(monkeypatch):
    network = make_network()
    stats = collect(network, [(torch.randn(64, 2, 4, 4), None)], None, {"gram"})
    group = next(group for group in network.groups if group.width == 6)
    monkeypatch.setattr(obs, "_WIDEST", 10)
    values = CRITERIA.load("obs")()(network, group, stats).values.tolist()
    for unit, value in enumerate(values):
        one, other = surgery_errors(network, stats, sorted({*range(6)} - {unit}))
        assert value == pytest.approx((one**0.5 + other**0.5) ** 2, rel=1e-6)


def test_obs_takes_nothing_for_a_unit_whose_readers_see_only_zeros():
    network = make_network()
    with torch.no_grad():
        network.module.get_parameter("bn0.weight").zero_()
        network.module.get_parameter("bn0.bias").fill_(-1.0)
    stats = collect(network, [(torch.randn(64, 2, 4, 4), None)], None, {"gram"})
    assert not stats.gram("gram", "inner.weight").any()
    group = next(group for group in network.groups if group.width == 6)
    network.module.get_parameter("head.weight").data.zero_()
    assert CRITERIA.load("obs")()(network, group, stats).values.tolist() == [0.0] * 6
