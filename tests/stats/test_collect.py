"""Collected statistics against gates on every unit, differentiated by autograd on the user's own module."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimtab.errors import ConfigError, NumericsError, TaskError
from trimtab.graph import capture
from trimtab.stats import collect


class Gated(nn.Module):
    """A residual network whose every unit has a gate: one vector for the stream (both producers), one inside."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.inner, self.bn1 = nn.Conv2d(6, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5)
        self.outer, self.bn2 = nn.Conv2d(5, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.dropout, self.head = nn.Dropout(0.5), nn.Linear(6 * 4, 3)
        for module in (self.bn0, self.bn1, self.bn2):
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor.copy_(torch.randn_like(tensor))
            module.running_var.uniform_(0.5, 2)

    def gated(self, x: Tensor, stream: Tensor, inside: Tensor) -> Tensor:
        gate = lambda x, g: x if g is None else x * g[:, None, None]  # noqa: E731
        x = F.relu(gate(self.bn0(self.stem(x)), stream))
        y = F.relu(gate(self.bn1(self.inner(x)), inside))
        x = x + gate(self.bn2(self.outer(y)), stream)
        return self.head(self.dropout(F.max_pool2d(F.relu(x), 2).flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.gated(x, None, None)


@pytest.fixture
def model():
    return Gated().eval()


@pytest.fixture
def network(model):
    return capture(model, torch.randn(5, 2, 4, 4))


def make_batches(*sizes):
    return [(torch.randn(n, 2, 4, 4), torch.randint(3, (n,))) for n in sizes]


def test_it_is_the_derivative_by_a_gate_on_the_unit(model, network):
    batches = make_batches(7, 3, 9)
    stats = collect(network, batches, F.cross_entropy, {"gradient"})
    assert stats.batches == 3
    assert set(stats.found["gradient"].units) == {group.name for group in network.groups} == {"stem", "inner"}
    for row, (x, y) in enumerate(batches):
        gates = [torch.ones(6, requires_grad=True), torch.ones(5, requires_grad=True)]
        loss = F.cross_entropy(model.gated(x, *gates), y)
        stream, inside = torch.autograd.grad(loss, gates)
        torch.testing.assert_close(stats.units("gradient", "stem")[row], stream.double(), rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(stats.units("gradient", "inner")[row], inside.double(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_as_before(network, training):
    network.train(training)
    parameters = dict(network.named_parameters())
    parameters["head.weight"].requires_grad_(False)
    parameters["inner.weight"].grad = torch.full_like(parameters["inner.weight"], 3.0)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    stats = collect(network, make_batches(4), F.cross_entropy, {"gradient"})
    assert stats.units("gradient", "stem").abs().sum() > 0
    assert network.training == training
    assert [name for name, p in parameters.items() if not p.requires_grad] == ["head.weight"]
    assert [name for name, p in parameters.items() if p.grad is not None] == ["inner.weight"]
    assert (parameters["inner.weight"].grad == 3).all()
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


def test_nothing_asked_is_nothing_read(network):
    stats = collect(network, [(None, None)], None, set())
    assert (stats.batches, dict(stats.found)) == (0, {})


def test_bad_input_is_named(network):
    batches = make_batches(4, 4)
    with pytest.raises(ConfigError, match="unknown statistic 'gradients'; known: ablation, activation"):
        collect(network, batches, F.cross_entropy, {"gradients", "gradient"})
    with pytest.raises(ConfigError, match="'gradient' needs a loss, got None"):
        collect(network, batches, None, {"gradient"})
    with pytest.raises(ConfigError, match=r"'gradient' needs labels.*target of batch 1 is None.*'activation'"):
        collect(network, [(batches[0][0], None)], F.cross_entropy, {"activation", "gradient"})
    with pytest.raises(ConfigError, match=r"stem: the statistic 'fisher' was not collected; collect\("):
        collect(network, batches, F.cross_entropy, {"gradient"}).units("fisher", "stem")
    with pytest.raises(ConfigError, match="elsewhere: the statistic 'gradient' does not see it"):
        collect(network, batches, F.cross_entropy, {"gradient"}).units("gradient", "elsewhere")
    with pytest.raises(TaskError, match="no batches"):
        collect(network, [], F.cross_entropy, {"gradient"})
    batches[1][0][0, 0, 0, 0] = float("nan")
    with pytest.raises(NumericsError, match="the loss is nan"):
        collect(network, batches, F.cross_entropy, {"gradient"})
