"""Every statistic against the user's own module: hooks, gates, single rows, real cuts, exact second derivatives."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import mutual_info_score
from torch import Tensor, nn

from trimtab.errors import ConfigError, NumericsError, TaskError
from trimtab.graph import capture, cut, remove
from trimtab.stats import STATISTICS, collect
from trimtab.stats.entropy import entropy
from trimtab.stats.mutual_information import information


class Images(nn.Module):
    """A stem, a residual branch with an inner group, a grouped convolution, and a head behind a flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.inner, self.outer = nn.Conv2d(6, 5, 3, padding=1), nn.Conv2d(5, 6, 3, padding=1)
        self.grouped = nn.Conv2d(6, 4, 1, groups=2)
        self.head = nn.Linear(4 * 4, 3)
        self.norm.weight.data.uniform_(0.5, 1.5)
        self.norm.running_mean.normal_()

    def forward(self, x: Tensor, gate: Tensor | None = None, branch: Tensor | None = None) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        inside = torch.tanh(self.inner(x))
        inside = inside if gate is None else inside * gate[:, None, None]
        added = self.outer(inside)
        x = x + (added if branch is None else added * branch)
        return self.head(torch.tanh(self.grouped(x)).flatten(1))


class Only(nn.Module):
    """The model with its input alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


@pytest.fixture
def model():
    return Only(Images().eval())


@pytest.fixture
def network(model):
    return capture(model, torch.randn(5, 2, 2, 2))


def make_batches(*sizes):
    return [(torch.randn(n, 2, 2, 2), torch.randint(3, (n,))) for n in sizes]


def found(network, batches, name):
    return collect(network, batches, F.cross_entropy, {name}).found[name]


def gates():
    return torch.ones(5, requires_grad=True), torch.ones((), requires_grad=True)


def test_fisher_squares_single_rows(model, network):
    batches = make_batches(4, 3)
    fisher = found(network, batches, "fisher")
    parameters = dict(model.named_parameters())
    sums = {name: torch.zeros_like(p) for name, p in parameters.items()}
    units, branch = torch.zeros(5), torch.zeros(())
    for x, y in batches:
        for i in range(len(x)):
            gate, added = gates()
            loss = F.cross_entropy(model.model(x[i : i + 1], gate, added), y[i : i + 1])
            *gradients, by_gate, by_branch = torch.autograd.grad(loss, [*parameters.values(), gate, added])
            for name, gradient in zip(parameters, gradients, strict=True):
                sums[name] += gradient**2 / 7
            units, branch = units + by_gate**2 / 7, branch + by_branch**2 / 7
    for name, expected in sums.items():
        torch.testing.assert_close(fisher.entries[name], expected.double(), rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(fisher.units["model.inner"], units.double(), rtol=1e-3, atol=1e-7)
    (value,) = fisher.branches.values()
    torch.testing.assert_close(value, branch.double(), rtol=1e-3, atol=1e-7)


def test_gradients_by_branch_and_by_weight(model, network):
    batches = make_batches(4, 6)
    gradient, mean = (found(network, batches, name) for name in ("gradient", "mean_gradient"))
    weight = model.model.inner.weight
    rows, weights = [], []
    for x, y in batches:
        added = torch.ones((), requires_grad=True)
        rows.append(torch.autograd.grad(F.cross_entropy(model.model(x, None, added), y), added)[0])
        weights.append(torch.autograd.grad(F.cross_entropy(model(x), y), weight)[0])
    (branch,) = gradient.branches.values()
    torch.testing.assert_close(branch, torch.stack(rows).double(), rtol=1e-3, atol=1e-6)
    sizes = torch.stack([w.abs() for w in weights]).mean(0).double()
    torch.testing.assert_close(gradient.entries["model.inner.weight"], sizes, rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(
        mean.entries["model.inner.weight"], torch.stack(weights).mean(0).double(), rtol=1e-3, atol=1e-7
    )


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(3, 4), nn.Linear(4, 3)
        self.head.weight.data.mul_(4)

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        inside = torch.tanh(self.inner(x))
        return self.head(inside if gate is None else inside * gate)


def test_hessian_is_the_exact_diagonal_on_average():
    model = Small()
    x, y = torch.randn(6, 3), torch.randint(3, (6,))
    hessian = collect(capture(model, x), [(x, y)] * 200, F.cross_entropy, {"hessian"}).found["hessian"]
    exact = torch.autograd.functional.hessian(lambda gate: F.cross_entropy(model(x, gate), y), torch.ones(4))
    spread = 5 * (exact.square().sum(1) / 400).sqrt()
    assert bool(((hessian.units["inner"] - exact.diagonal()).abs() <= spread + 1e-4).all())

    parameters = list(model.parameters())

    def by_all(flat):
        parts = flat.split([p.numel() for p in parameters])
        named = {n: v.view_as(p) for (n, p), v in zip(model.named_parameters(), parts, strict=True)}
        return F.cross_entropy(torch.func.functional_call(model, named, (x,)), y)

    def by_head(weight):
        return F.cross_entropy(torch.func.functional_call(model, {"head.weight": weight}, (x,)), y)

    exact = torch.autograd.functional.hessian(by_head, model.head.weight).reshape(12, 12)
    wide = torch.autograd.functional.hessian(by_all, torch.cat([p.detach().flatten() for p in parameters]))
    spread = 5 * (wide.square().sum(1)[-15:-3] / 400).sqrt()
    estimate = hessian.entries["head.weight"].flatten()
    assert bool(((estimate - exact.diagonal()).abs() <= spread + 1e-4).all())


def test_ablation_is_the_loss_of_the_network_that_was_really_cut(network):
    batches = make_batches(5, 8)
    ablation = found(network, batches, "ablation")

    def loss(smaller):
        return sum(len(y) * F.cross_entropy(smaller(x), y).item() for x, y in batches) / 13

    for group in network.groups:
        for unit in range(group.width) if group.multiple_of == 1 else ():
            kept = [u for u in range(group.width) if u != unit]
            difference = loss(cut(network, {group.name: kept})) - loss(network)
            assert ablation.units[group.name][unit].item() == pytest.approx(difference, abs=1e-5)
    (branch,) = network.branches
    without = loss(remove(network, [branch.name])) - loss(network)
    assert ablation.branches[branch.name].item() == pytest.approx(without, abs=1e-5)


@pytest.mark.parametrize("name", ["ablation", "fisher"])
def test_rows_are_limited(network, monkeypatch, name):
    monkeypatch.setattr(f"trimtab.stats.{name}.ROWS", 8)
    one = make_batches(8)
    few, many = (found(network, batches, name).units["model.inner"] for batches in (one, [*one, *make_batches(5)]))
    assert torch.equal(few, many)


def test_movement_follows_sgd_on_a_halved_copy(model, network):
    batches = make_batches(6, 6, 6)
    movement = found(network, batches, "movement")
    parameters = dict(model.named_parameters())
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.mul_(0.5 if parameter.dim() > 1 else 1)
    for x, y in batches:
        gradients = torch.autograd.grad(F.cross_entropy(model(x), y), list(parameters.values()))
        size = lambda tensors: torch.cat([t.detach().flatten() for t in tensors]).norm()  # noqa: E731
        rate = 1e-3 * size(parameters.values()) / size(gradients)
        with torch.no_grad():
            for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
                total[name] += parameter * -rate * gradient
                parameter -= rate * gradient
    for name, expected in total.items():
        torch.testing.assert_close(movement.entries[name], expected.double(), rtol=1e-3, atol=1e-8)
    units = total["model.outer.weight"].sum((0, 2, 3)).double()
    torch.testing.assert_close(movement.units["model.inner"], units, rtol=1e-3, atol=1e-8)


def test_activations_are_what_hooks_see(model, network):
    batches = make_batches(4, 9)
    activation = found(network, [(x, None) for x, _ in batches], "activation")
    read: dict[str, list[Tensor]] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(
                lambda _, given, __, name=name: read.setdefault(name, []).append(given[0].double())
            )
    for x, _ in batches:
        model(x)
    values = {name: torch.cat(parts).detach() for name, parts in read.items()}
    inside = values["model.outer"]
    torch.testing.assert_close(activation.units["model.inner"], inside.abs().mean((0, 2, 3)))
    flat = values["model.head"].unflatten(1, (4, 4))
    units = {name: activation.units[name] for name in activation.units if name.startswith("model.grouped")}
    for name, mean in units.items():
        group = network.group(name)
        channels = flat.abs().mean((0, 2))
        expected = channels if group.width == 4 else channels.view(2, 2).mean(0 if name.endswith("1") else 1)
        torch.testing.assert_close(mean, expected)
    weight = model.model.grouped.weight
    per_row = values["model.grouped"].square().mean((0, 2, 3)).view(2, 3).repeat_interleave(2, 0)[:, :, None, None]
    mine = activation.entries["model.grouped.weight"].broadcast_to(weight.shape)
    torch.testing.assert_close(mine, per_row.broadcast_to(weight.shape))
    (branch,) = activation.branches.values()
    added = values["model.outer"].float()
    with torch.no_grad():
        skip = torch.cat([F.relu(model.model.norm(model.model.stem(x))) for x, _ in batches])
        assert branch == pytest.approx(float(model.model.outer(added).square().sum() / skip.square().sum()), rel=1e-4)


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.lstm, self.head = nn.Embedding(6, 4), nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.table(x))[0][:, -1])


def test_tables_and_recurrent_states_are_read_too():
    model = Words()
    x = torch.randint(6, (7, 3))
    activation = collect(capture(model, x), [(x, None)], None, {"activation"}).found["activation"]
    shares = torch.tensor([(x == token).double().mean() for token in range(6)], dtype=torch.float64)
    torch.testing.assert_close(activation.entries["table.weight"].flatten(), shares)
    with torch.no_grad():
        states = model.lstm(model.table(x))[0].double()
    hidden = activation.entries["lstm.weight_hh_l0"].flatten()
    torch.testing.assert_close(hidden, states.square().mean((0, 1)), rtol=1e-5, atol=1e-8)
    units = (states.abs().mean((0, 1)) + states[:, -1].abs().mean(0)) / 2
    torch.testing.assert_close(activation.units["lstm.l0"], units, rtol=1e-5, atol=1e-8)


def test_activity_counts_what_leaves_its_rest(model, network):
    ((x, _),) = make_batches(30)
    activity = found(network, [(x, None)], "activity")
    with torch.no_grad():
        inside = torch.tanh(model.model.inner(F.relu(model.model.norm(model.model.stem(x))))).double().numpy()
    rows = np.moveaxis(inside, 1, 3).reshape(-1, 5)
    rest = np.sort(rows, 0)[(len(rows) - 1) // 2]
    distance = np.abs(rows - rest)
    expected = (distance > 0.5 * np.sqrt((distance**2).mean())).mean(0)
    np.testing.assert_allclose(activity.units["model.inner"].numpy(), expected, atol=1 / 120)


def test_entropy_and_information_equal_libraries():
    values = torch.randn(200, 4).double() * torch.tensor([1.0, 0.1, 3.0, 0.0])
    labels = (values[:, 0] > 0).long() + (torch.rand(200) > 0.9)
    span = (float(values.min()), float(values.max()))
    mine = entropy(values)
    for channel in range(4):
        shares = np.histogram(values[:, channel].numpy(), 32, span)[0] / 200
        assert mine[channel].item() == pytest.approx(-sum(p * np.log(p) for p in shares if p), abs=1e-9)
    mine = information(values, labels)
    for channel in range(3):
        column = values[:, channel].numpy()
        codes = np.searchsorted(np.quantile(column, np.arange(1, 8) / 8), column)
        plain = mutual_info_score(labels.numpy(), codes)
        assert mine[channel].item() == pytest.approx(max(plain - 7 * 2 / 400, 0), abs=1e-9)
    assert mine[3] == 0
    assert mine[0] > 5 * mine[2]


def test_rows_of_recurrent_layers_that_put_time_first_stay_rows():
    """A stack of layers runs with time first; what a unit tells of the label must be the same."""
    model = nn.LSTM(1, 3, num_layers=2, batch_first=True).eval()

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = model, nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.lstm(x)[0])

    x = torch.randn(64, 5, 1) + 2 * torch.arange(64).remainder(2)[:, None, None]
    labels = torch.arange(64).remainder(2)
    network = capture(Last(), x[:4])
    units = collect(network, [(x, labels)], F.cross_entropy, {"mutual_information"}).found["mutual_information"].units
    with torch.no_grad():
        states = model(x)[0].mean(1).double()
    torch.testing.assert_close(units["lstm.l1"], information(states, labels), rtol=0.2, atol=0.05)


def test_without_labels_only_statistics_of_activations(network):
    unlabelled = [(x, None) for x, _ in make_batches(8)]
    for name in STATISTICS:
        if STATISTICS.load(name).supervised:
            with pytest.raises(ConfigError, match=f"'{name}' needs labels"):
                collect(network, unlabelled, F.cross_entropy, {name})
            with pytest.raises(ConfigError, match=f"'{name}' needs a loss"):
                collect(network, unlabelled, None, {name})
        else:
            found = collect(network, unlabelled, None, {name}).found[name]
            for numbers in (*found.units.values(), *found.entries.values(), *found.grams.values()):
                assert numbers.isfinite().all()
            assert "model.inner" in found.units or found.grams


def test_bad_labels_and_losses_are_named(network):
    ((x, y),) = make_batches(6)
    with pytest.raises(ConfigError, match=r"one integer label a row, got torch\.float32"):
        collect(network, [(x, y.float())], F.mse_loss, {"mutual_information"})
    with pytest.raises(NumericsError, match=r"the loss must be one number, got the shape \[6\]"):
        collect(network, [(x, y)], lambda out, target: F.cross_entropy(out, target, reduction="none"), {"gradient"})
    with pytest.raises(TaskError, match="same dimension 0"):
        collect(network, [(x, y[:4])], lambda out, target: out.sum(), {"fisher"})
