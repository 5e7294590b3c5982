"""Units whose weights are rounded to zero are dead, though the weights are not zero."""

import pytest
import torch
from torch import nn

import trimtab as tt
from trimtab.plan import PER_CHANNEL, PER_TENSOR, LayerDecision, Plan, Scheme


def in_codes(model: nn.Module, scheme: Scheme) -> tt.Network:
    network = tt.capture(model, torch.randn(4, 12))
    layers = tuple(LayerDecision(layer=layer.name, weight=scheme) for layer in network.layers)
    return tt.apply(network, Plan(fingerprint=network.fingerprint, target="onnxruntime", layers=layers)).eval()


def perceptron(*, unread: int) -> nn.Module:
    """Of 10 hidden units the last `unread` are read with next to nothing."""
    model = nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 3))
    with torch.no_grad():
        model[2].weight[:, 10 - unread :] *= 1e-4
    return model


@pytest.mark.parametrize("granularity", [PER_TENSOR, PER_CHANNEL])
def test_units_that_are_read_with_zeros_only_go(granularity):
    network = in_codes(perceptron(unread=4), Scheme(grid="symmetric", bits=4, granularity=granularity))
    weight = network.module.get_parameter("2.weight")
    assert bool((weight != 0).all())
    before = weight.detach().clone()
    small = tt.shrink(network)
    x = torch.randn(50, 12)
    torch.testing.assert_close(small(x), network(x), rtol=1e-6, atol=1e-6)
    assert small.module.get_parameter("0.weight").shape == (6, 12)
    assert torch.equal(weight, before)


def test_where_the_scale_is_found_from_the_weights_nothing_is_cleared():
    """The scale of a binary grid is the mean magnitude: with other weights gone it would be another."""
    network = in_codes(perceptron(unread=4), Scheme(grid="binary", bits=1, granularity=PER_TENSOR))
    x = torch.randn(50, 12)
    torch.testing.assert_close(tt.shrink(network)(x), network(x), rtol=1e-6, atol=1e-6)


class Tied(nn.Module):
    """A weight that one layer reads rounded, and the output as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 10), nn.Linear(10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x))) + self.second.weight.sum()


def test_what_somebody_reads_unrounded_stays():
    model = Tied()
    with torch.no_grad():
        model.second.weight[:, 6:] *= 1e-4
    network = in_codes(model, Scheme(grid="symmetric", bits=4, granularity=PER_TENSOR))
    x = torch.randn(50, 12)
    small = tt.shrink(network)
    assert torch.equal(small.module.get_parameter("second.weight"), network.module.get_parameter("second.weight"))
    torch.testing.assert_close(small(x), network(x))
