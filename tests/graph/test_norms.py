"""Norms by the statistics of their input: what is exact, what is pinned, and what is compared over kept units only."""

import pytest
import torch
import torch.nn.functional as F
from graph_proofs import captured, prove, widths
from torch import Tensor, nn

from trimtab.graph import cut, verify
from trimtab.graph.double import doubled
from trimtab.graph.surgery import masks
from trimtab.graph.verify import compare, fresh_inputs


class Normed(nn.Module):
    """[N, 3, 5, 5] → 8 channels → a norm, over channels last where `last` → 4 channels."""

    def __init__(self, norm: nn.Module, last: bool = False) -> None:
        super().__init__()
        self.first, self.norm, self.out, self.last = nn.Conv2d(3, 8, 3, padding=1), norm, nn.Conv2d(8, 4, 1), last

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if self.last else self.norm(x)
        return self.out(F.gelu(x))


class OwnRMS(nn.Module):
    """RMSNorm written out, in float32 inside, as language models have it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(torch.float32)
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


EXACT = {
    "groups": (nn.GroupNorm(8, 8), False, {"first": 8}),
    "groups_plain": (nn.GroupNorm(8, 8, affine=False), False, {"first": 8}),
    "instance": (nn.InstanceNorm2d(8), False, {"first": 8}),
    "instance_affine": (nn.InstanceNorm2d(8, affine=True), False, {"first": 8}),
    "instance_stored": (nn.InstanceNorm2d(8, track_running_stats=True), False, {"first": 8}),
    "rms": (nn.RMSNorm(8), True, {"first": 8}),
    "rms_eps": (nn.RMSNorm(8, eps=0.5), True, {"first": 8}),
    "rms_plain": (nn.RMSNorm(8, elementwise_affine=False), True, {"first": 8}),
    "rms_image": (nn.RMSNorm((8, 5, 5), eps=0.1), False, {"first": 8}),
    "rms_own": (OwnRMS(8), True, {"first": 8}),
}

INEXACT = {
    "layer": (nn.LayerNorm(8), True, {"first": 8}, {}),
    "layer_no_bias": (nn.LayerNorm(8, bias=False), True, {"first": 8}, {}),
    "layer_plain": (nn.LayerNorm(8, elementwise_affine=False), True, {"first": 8}, {}),
    "layer_image": (nn.LayerNorm((8, 5, 5)), False, {"first": 8}, {}),
    "layer_two": (nn.LayerNorm((5, 8)), True, {"first": 8}, {}),
    "one_group": (nn.GroupNorm(1, 8), False, {"first": 8}, {}),
    "group": (nn.GroupNorm(4, 8), False, {"first/1": 2}, {"first/0": 4}),
    "group_plain": (nn.GroupNorm(2, 8, affine=False), False, {"first/1": 4}, {"first/0": 2}),
}


@pytest.mark.parametrize("name", EXACT)
def test_exact(name: str) -> None:
    norm, last, expected = EXACT[name]
    net = captured(Normed(norm, last), torch.randn(3, 3, 5, 5))
    assert widths(net, exact=True) == widths(net) == expected, net.frozen
    prove(net)


@pytest.mark.parametrize("name", INEXACT)
def test_over_units_it_is_not_exact_and_says_so(name: str) -> None:
    norm, last, inexact, exact = INEXACT[name]
    net = captured(Normed(norm, last), torch.randn(3, 3, 5, 5))
    assert widths(net, exact=False) == inexact, net.frozen
    assert widths(net, exact=True) == exact
    reasons = [group.reason for group in net.groups if not group.exact]
    assert all("mean and variance are taken over its units" in r and "test_norms.py:" in r for r in reasons)
    prove(net)


@pytest.mark.parametrize("name", INEXACT)
def test_a_masked_norm_truly_differs_and_nothing_cut_is_exact(name: str) -> None:
    norm, last, inexact, _ = INEXACT[name]
    net = captured(Normed(norm, last), torch.randn(3, 3, 5, 5))
    [group] = [group for group in net.groups if group.name in inexact]
    masked = doubled(net)
    with torch.no_grad():
        for parameter, mask in masks(net, {group.name: [0]}).items():
            masked.module.get_parameter(parameter).mul_(mask)
        x = fresh_inputs(net)
        difference, _ = compare(cut(doubled(net), {group.name: [0]})(x), masked(x))
    assert difference > 1e-3
    assert verify(net, {group.name: range(group.width)}).exact


def test_members_of_a_norm_have_its_role() -> None:
    net = captured(Normed(nn.GroupNorm(4, 8)), torch.randn(3, 3, 5, 5))
    roles = {(m.parameter, m.dim): m.role for m in net.group("first/0").members}
    assert roles == {
        ("first.weight", 0): "out",
        ("first.bias", 0): "out",
        ("norm.weight", 0): "norm",
        ("norm.bias", 0): "norm",
        ("out.weight", 1): "in",
    }


def test_groups_that_do_not_fit_segments_freeze() -> None:
    class Cat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.norm = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 2, 1), nn.GroupNorm(2, 8)
            self.out = nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.norm(torch.cat([self.a(x), self.b(x)], 1)))

    net = captured(Cat(), torch.randn(3, 3, 4, 4))
    assert not net.groups
    frozen = {frozen.name: frozen for frozen in net.frozen}
    assert frozen["a"].operator == frozen["b"].operator == "aten.group_norm.default"


class ConvNeXtBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.down(F.gelu(self.up(y)))).permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 2, 2)
        self.blocks = nn.Sequential(ConvNeXtBlock(6), ConvNeXtBlock(6))
        self.between, self.reduce = nn.GroupNorm(1, 6), nn.Conv2d(6, 10, 2, 2)
        self.block, self.norm, self.head = ConvNeXtBlock(10), nn.LayerNorm(10), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(self.between(self.blocks(self.stem(x))))
        return self.head(self.norm(self.block(x).mean((2, 3))))


def test_convnext() -> None:
    net = captured(ConvNeXt(), torch.randn(3, 3, 12, 12))
    assert widths(net, exact=False) == {"stem": 6, "reduce": 10}
    assert widths(net, exact=True) == {"blocks.0.up": 24, "blocks.1.up": 24, "block.up": 40}
    prove(net)
