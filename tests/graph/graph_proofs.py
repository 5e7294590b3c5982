"""What every network of the graph tests must show: capture computes the same, and a cut equals the masked original."""

import random
from typing import Any

import torch
from torch import nn

from trimtab.graph import Network, capture, cut, verify
from trimtab.tasks.task import call


def randomized(model: nn.Module) -> nn.Module:
    """In eval mode, with every parameter and float buffer of a batch norm random: ones and zeros would hide errors."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-1, 1)
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.uniform_(0.5, 1.5)
    return model.eval()


def captured(model: nn.Module, example: Any) -> Network:
    """The network of a randomized model, which computes what the model computes, also after a cut of nothing."""
    randomized(model)
    network = capture(model, example)
    # With gradients on: without them torch's own encoder takes a shortcut that rounds differently.
    expected = call(model, example)
    assert torch.equal(call(network, example), expected)
    whole = cut(network, {group.name: range(group.width) for group in network.groups})
    assert whole.fingerprint == network.fingerprint
    assert torch.equal(call(whole, example), expected)
    return network


def some(width: int, at_least: int = 1, multiple_of: int = 1) -> list[int]:
    counts = range(-(-at_least // multiple_of) * multiple_of, width, multiple_of)
    return random.sample(range(width), random.choice(counts))


def prove(network: Network) -> None:
    """Each group alone, and all together, with random kept units: exact where the group says so.

    Where it does not, the reference takes norms over the kept units only, and nothing else may differ.
    """
    assert network.groups
    for group in network.groups:
        proof = verify(network, {group.name: some(group.width, group.at_least, group.multiple_of)})
        assert proof.max_abs_diff < 1e-9, (group, proof)
        assert proof.exact == group.exact, (group, proof)
        assert group.exact or "otherwise nothing differs" in proof.reason
    kept = {group.name: some(group.width, group.at_least, group.multiple_of) for group in network.groups}
    proof = verify(network, kept)
    assert proof.max_abs_diff < 1e-9, (kept, proof)
    assert proof.exact == all(group.exact for group in network.groups)
    prove_trains(network, kept)


def prove_trains(network: Network, kept: dict[str, list[int]]) -> None:
    """The cut network runs backwards, can be cut again, and has fewer parameters."""
    small = cut(network, kept).train()
    call(small, small.example).square().mean().backward()
    assert any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in small.parameters())
    again = {group.name: some(group.width, group.at_least, group.multiple_of) for group in small.groups}
    assert verify(small, again).max_abs_diff < 1e-9
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in network.parameters())


def widths(network: Network, exact: bool | None = None) -> dict[str, int]:
    """Group names and widths: all of them, or those that are (not) exact."""
    return {group.name: group.width for group in network.groups if exact is None or group.exact is exact}
