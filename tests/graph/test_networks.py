"""Whole networks: groups as expected, cut nothing equals the original, cut equals masked, and it trains on."""

import random
from typing import Any

import pytest
import torch
from graph_nets import (
    VGG,
    Autoencoder,
    CifarResNet,
    ConvNet1d,
    DenseNet,
    Inception,
    LeNet,
    MobileNet,
    ResNeXt,
    Shared,
    randomize,
)
from torch import nn
from torch.utils import _pytree as pytree

from trimtab.graph import Network, capture, cut, verify
from trimtab.tasks.task import call

CASES: dict[str, tuple[Any, Any, dict[str, int]]] = {
    "lenet": (LeNet, lambda: torch.randn(2, 1, 28, 28), {"conv1": 6, "conv2": 16, "fc1": 120, "fc2": 84}),
    "vgg": (
        VGG,
        lambda: torch.randn(2, 3, 16, 16),
        {"features.0": 8, "features.4": 12, "features.8": 16, "classifier.2": 20},
    ),
    "resnet_a": (
        lambda: CifarResNet(8, (4, 8, 12)),
        lambda: torch.randn(2, 3, 16, 16),
        {
            "conv1": 4,
            "layer1.0.conv1": 4,
            "layer2.0.conv1": 8,
            "layer2.0.conv2[0:2]": 2,
            "layer2.0.conv2[6:8]": 2,
            "layer3.0.conv1": 12,
            "layer3.0.conv2[0:2]": 2,
            "layer3.0.conv2[10:12]": 2,
        },
    ),
    "resnet_projection": (
        lambda: CifarResNet(8, (4, 8, 12), projection=True),
        lambda: torch.randn(2, 3, 16, 16),
        {
            "conv1": 4,
            "layer1.0.conv1": 4,
            "layer2.0.conv1": 8,
            "layer2.0.conv2": 8,
            "layer3.0.conv1": 12,
            "layer3.0.conv2": 12,
        },
    ),
    "mobilenet": (
        MobileNet,
        lambda: torch.randn(2, 3, 16, 16),
        {"stem": 8, "blocks.0.body.0": 16, "blocks.1.down": 4, "blocks.2.body.0": 24, "blocks.2.body.6": 12}
        | {"blocks.3.body.0": 24},
    ),
    "densenet": (
        DenseNet,
        lambda: torch.randn(2, 3, 8, 8),
        {"stem": 6, "convs.0": 4, "convs.1": 4, "convs.2": 4, "convs.3": 4, "transition": 10},
    ),
    "resnext": (
        ResNeXt,
        lambda: torch.randn(2, 3, 8, 8),
        {"stem": 8, "reduce/0": 4, "reduce/1": 3, "grouped/1": 6},
    ),
    "inception": (
        Inception,
        lambda: torch.randn(2, 3, 8, 8),
        {"stem": 8, "b1": 6, "b2a": 4, "b2b[0:4]": 4, "b2b[4:6]": 2, "left": 5},
    ),
    "shared": (
        Shared,
        lambda: {"image": torch.randn(2, 2, 6, 6), "vector": torch.randn(2, 5)},
        {"image": 6, "vector": 9, "mix": 8},
    ),
    "conv1d": (
        ConvNet1d,
        lambda: torch.randn(2, 3, 12),
        {"conv1/0": 2, "conv1/1": 4, "conv2/1": 4, "conv3": 6, "token": 10},
    ),
    "autoencoder": (Autoencoder, lambda: torch.randn(2, 12), {"encode": 7}),
}


def build(name: str) -> tuple[nn.Module, Any, Network]:
    make, example, _ = CASES[name]
    model = randomize(make()).eval()
    inputs = example()
    return model, inputs, capture(model, inputs)


def some(width: int) -> list[int]:
    """Random units, at least one kept, and at least one removed where there are two."""
    return random.sample(range(width), random.randint(1, max(1, width - 1)))


@pytest.mark.parametrize("name", CASES)
def test_groups_are_those_that_a_person_would_name(name: str) -> None:
    _, _, network = build(name)
    assert {group.name: group.width for group in network.groups} == CASES[name][2]
    assert all(group.exact for group in network.groups), [g.reason for g in network.groups if not g.exact]


@pytest.mark.parametrize("name", CASES)
def test_capture_computes_what_the_module_computes(name: str) -> None:
    model, inputs, network = build(name)
    for a, b in zip(pytree.tree_leaves(call(model, inputs)), pytree.tree_leaves(call(network, inputs)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", CASES)
def test_a_cut_of_nothing_changes_nothing(name: str) -> None:
    _, inputs, network = build(name)
    whole = cut(network, {group.name: range(group.width) for group in network.groups})
    assert whole.fingerprint == network.fingerprint
    assert [str(n.args) for n in whole.module.graph.nodes] == [str(n.args) for n in network.module.graph.nodes]
    for a, b in zip(pytree.tree_leaves(call(whole, inputs)), pytree.tree_leaves(call(network, inputs)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", CASES)
def test_every_group_alone_equals_masked(name: str) -> None:
    _, _, network = build(name)
    for group in network.groups:
        proof = verify(network, {group.name: some(group.width)})
        assert proof.exact, (group.name, proof)


@pytest.mark.parametrize("name", CASES)
def test_all_groups_together_equal_masked_and_train_on(name: str) -> None:
    _, inputs, network = build(name)
    kept = {group.name: some(group.width) for group in network.groups}
    proof = verify(network, kept)
    assert proof.exact, proof
    small = cut(network, kept).train()
    sizes = [p.numel() for p in small.parameters()]
    assert sum(sizes) < sum(p.numel() for p in network.parameters())
    loss = sum(out.square().sum() for out in pytree.tree_leaves(call(small, inputs)))
    loss.backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in small.parameters())
    assert verify(small.eval(), {g.name: some(g.width) for g in small.groups}).exact


@pytest.mark.parametrize("name", CASES)
def test_group_widths_survive_in_terms_and_units(name: str) -> None:
    _, _, network = build(name)
    widths = {group.name: group.width for group in network.groups}
    for parameter, tensor in network.named_parameters():
        for dim, n in enumerate(tensor.shape):
            total = 0
            for coefficient, factors in network.terms(parameter, dim):
                for factor in factors:
                    coefficient *= widths[factor]
                total += coefficient
            assert total == n
    kept = {group.name: some(group.width) for group in network.groups}
    small = cut(network, kept)
    for group in network.groups:
        alone = cut(network, {group.name: kept[group.name]})
        for member in group.members:
            units = network.units(group, member)
            keeps = torch.isin(units, torch.tensor([-1, *kept[group.name]]))
            tensor = alone.state_dict()[member.parameter]
            assert tensor.shape[member.dim] == int(keeps.sum())
    assert sum(g.width for g in small.groups) <= sum(len(k) for k in kept.values())
