"""Which parameters get which treatment, the schedule, clipping, and the state's way through tensors."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from trimtab.graph import capture
from trimtab.recover import Settings
from trimtab.recover.optimizer import (
    build_optimizer,
    clip_gradients,
    cosine_rate,
    optimizer_tensors,
    parameter_groups,
    restore_optimizer,
    set_pace,
)
from trimtab.recover.precision import set_layout


class Rounding(nn.Module):
    elementwise = True

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


@pytest.fixture
def network():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3)).eval()
    network = capture(model, torch.randn(5, 1, 4, 4))
    network.module.add_module("rounding", Rounding())
    return network


def test_decay_is_for_weights_and_scales_go_at_their_own_rate(network):
    names = {parameter: name for name, parameter in network.named_parameters()}
    dict(network.named_parameters())["3.weight"].requires_grad_(False)
    groups = parameter_groups(network, Settings(weight_decay=0.3, scale_rate=0.05))
    seen = {names[p]: (group["weight_decay"], group["rate"]) for group in groups for p in group["params"]}
    assert seen == {
        "0.weight": (0.3, 1.0),
        "0.bias": (0.0, 1.0),
        "1.weight": (0.0, 1.0),
        "1.bias": (0.0, 1.0),
        "3.bias": (0.0, 1.0),
        "rounding.scale": (0.0, 0.05),
    }


@given(steps=st.integers(1, 500), warmup=st.floats(0, 0.9), peak=st.floats(1e-6, 10))
def test_the_rate_rises_then_falls_to_zero(steps, warmup, peak):
    settings = Settings(warmup=warmup, learning_rate=peak)
    rates = [cosine_rate(step, steps, settings) for step in range(steps)]
    assert all(0 < rate <= peak for rate in rates)
    top = rates.index(max(rates))
    assert top <= max(1, round(warmup * steps))
    assert all(a >= b for a, b in zip(rates[top:], rates[top + 1 :], strict=False))
    assert cosine_rate(steps, steps, settings) == pytest.approx(0, abs=1e-12 * peak)
    if warmup == 0:
        assert rates[steps // 2] == pytest.approx(peak * math.cos(math.pi * (steps // 2) / steps / 2) ** 2)


def test_scales_do_not_use_up_the_norm_of_the_weights(network):
    optimizer = build_optimizer(network, Settings())
    for name, parameter in network.named_parameters():
        parameter.grad = torch.full_like(parameter, 1e6 if "scale" in name else 1e-3)
    clip_gradients(optimizer, 1.0)
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    assert gradients["rounding.scale"].item() == pytest.approx(1.0)
    assert (gradients["0.weight"] == 1e-3).all()
    gradients["0.weight"].fill_(1e6)
    clip_gradients(optimizer, 1.0)
    total = sum(g.square().sum().item() for n, g in gradients.items() if "scale" not in n)
    assert math.sqrt(total) == pytest.approx(1.0, rel=1e-3)
    gradients["1.bias"][0] = float("inf")
    assert not clip_gradients(optimizer, 1.0).isfinite()


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_state_goes_through_tensors_unchanged(network, name):
    twin = network.clone()
    for net in (network, twin):
        set_layout(net, torch.channels_last)
    settings = Settings(optimizer=name)
    first, second = build_optimizer(network, settings), build_optimizer(twin, settings)
    gradients = [{n: torch.randn_like(p) for n, p in network.named_parameters()} for _ in range(5)]

    def advance(net, optimizer, step):
        for n, p in net.named_parameters():
            p.grad = gradients[step][n].clone()
        optimizer.step()

    for step in range(3):
        advance(network, first, step)
    tensors = optimizer_tensors(first, dict(network.named_parameters()))
    assert tensors
    twin.load_state_dict({n: t.clone() for n, t in network.state_dict().items()})
    restore_optimizer(second, dict(twin.named_parameters()), {n: t.contiguous() for n, t in tensors.items()})
    for step in (3, 4):
        advance(network, first, step)
        advance(twin, second, step)
    for n, p in network.named_parameters():
        assert torch.equal(p, dict(twin.named_parameters())[n]), n


def test_frozen_scales_rest_while_weights_move(network):
    optimizer = build_optimizer(network, Settings())
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    for frozen, moved in ((True, set(before) - {"rounding.scale"}), (False, set(before))):
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)
        set_pace(optimizer, 0.1, 0.9, ranges_frozen=frozen)
        optimizer.step()
        now = dict(network.named_parameters())
        assert {name for name, value in before.items() if not torch.equal(now[name], value)} == moved


def test_what_a_module_learns_goes_at_the_rate_of_scales_and_a_clip_decays(network):
    class Clip(Rounding):
        learned, decays = ("scale", "offset"), True

        def __init__(self) -> None:
            super().__init__()
            self.offset = nn.Parameter(torch.zeros(1))

    network.module.add_module("clip", Clip())
    names = {parameter: name for name, parameter in network.named_parameters()}
    groups = [group for group in parameter_groups(network, Settings(weight_decay=0.3)) if group["scales"]]
    assert {names[p]: group["weight_decay"] for group in groups for p in group["params"]} == {
        "rounding.scale": 0.0,
        "clip.scale": 0.3,
        "clip.offset": 0.3,
    }
