"""Dimensions that are products: which groups multiply, how many channels a unit is, and a uniform cut of them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimtab.graph import Network, capture, cut, verify
from trimtab.plan import Plan


class Attention(nn.Module):
    """Six heads: queries and keys of 8, values of 10 channels each."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(12, 48), nn.Linear(12, 48), nn.Linear(12, 60)
        self.out = nn.Linear(60, 5)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (layer(x).view(n, t, 6, -1).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Groups(nn.Module):
    """A convolution in four groups of 3 channels, to 5 channels each."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 20, 3, groups=4), nn.Conv2d(20, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.relu(self.b(F.relu(self.a(x)))))


def halves(network: Network) -> dict[str, tuple[int, ...]]:
    return {decision.group: decision.kept for decision in Plan.uniform(network).groups}


def test_heads_and_what_they_hold() -> None:
    network = capture(Attention(), torch.randn(3, 4, 12))
    assert network.products == ((("q/0",), ("q/1",)), (("q/0",), ("v/1",)))
    assert {group.name: (group.width, group.unit_size) for group in network.groups} == {
        "q/0": (6, 8),
        "q/1": (8, 6),
        "v/1": (10, 6),
    }
    kept = halves(network)
    assert {name: len(units) for name, units in kept.items()} == {"q/0": 3}
    small = cut(network, kept)
    assert small.module.get_parameter("v.weight").shape == (30, 12)
    assert small.module.get_parameter("out.weight").shape == (5, 30)
    assert verify(network, kept).exact


def test_groups_of_a_convolution() -> None:
    network = capture(Groups(), torch.randn(3, 3, 6, 6))
    assert network.products == ((("a/0",), ("a/1",)), (("a/0",), ("b/1",)))
    assert [(group.name, group.width, group.unit_size) for group in network.groups] == [
        ("a/0", 4, 3),
        ("a/1", 3, 4),
        ("b/1", 5, 4),
    ]
    kept = halves(network)
    assert list(kept) == ["a/0"]
    assert cut(network, kept).module.get_parameter("b.weight").shape == (10, 3, 3, 3)


def test_a_network_without_products() -> None:
    network = capture(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), torch.randn(3, 4))
    assert network.products == ()
    assert [group.unit_size for group in network.groups] == [1]
