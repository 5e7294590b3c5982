"""Weights on any grid: rounded to its values, with the gradients of LSQ, one scale for whatever block shares it."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from int8_nets import conv, head
from trimtab.apply import apply
from trimtab.errors import ConfigError, NumericsError
from trimtab.graph import capture, cut
from trimtab.lower import target
from trimtab.plan import PER_CHANNEL, PER_NETWORK, PER_TENSOR, LayerDecision, Plan, Scheme
from trimtab.quant import GRIDS, WeightFakeQuantize, insert_fake_quantization
from trimtab.testing import grid_cases

SOME = [case for case in grid_cases() if case[1] <= 4]
BLOCKS = [PER_CHANNEL, PER_TENSOR, (1, 6)]


def rounding_of(
    name: str, bits: int, weight: Tensor, granularity: tuple[int, int] | str = PER_CHANNEL
) -> WeightFakeQuantize:
    return WeightFakeQuantize(GRIDS.load(name)(bits), weight, granularity)


def integers_of(rounding: WeightFakeQuantize) -> list[float]:
    """All integers less their zero points that the first row may take, ascending."""
    grid, fit = rounding.grid, rounding.fit()
    every = torch.arange(grid.low, grid.high + 1).float()
    values = fit.scale[0] * (every - fit.zero_point[0])
    first = type(fit)(fit.scale[:1], fit.zero_point[:1], fit.table)
    members = grid.integers(grid.encode(values[None], first), first)[0] == every
    return (every - fit.zero_point[0])[members].tolist()


@pytest.mark.parametrize("granularity", BLOCKS)
@pytest.mark.parametrize(("name", "bits"), grid_cases())
def test_a_weight_is_its_integers_times_the_scale_of_its_block(
    name: str, bits: int, granularity: tuple[int, int]
) -> None:
    weight = torch.randn(4, 2, 3, 3) * torch.logspace(-2, 1, 4).view(-1, 1, 1, 1)
    rounding = rounding_of(name, bits, weight, granularity)
    scale = rounding.step().detach()
    assert scale.shape == {PER_CHANNEL: (4,), PER_TENSOR: (1,)}.get(granularity, (4, 3))
    blocks = rounding.integers(weight).reshape(*scale.shape, -1)
    assert torch.equal(blocks, blocks.round())
    expected = (blocks.double() * scale.double()[..., None]).reshape(weight.shape)
    with torch.no_grad():
        assert torch.allclose(rounding(weight).double(), expected, rtol=1e-6, atol=0)
    decoded = rounding.grid.decode(rounding.rows(rounding.codes(weight)), rounding.fit()).reshape(weight.shape)
    assert torch.isclose(decoded.double(), expected, rtol=1e-5).float().mean() > 0.98  # a tie may go the other way


def reference(rounding: WeightFakeQuantize, weight: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients to one row of weights and to its scale, entry by entry; `above` is the gradient of the row."""
    grid, members = rounding.grid, integers_of(rounding)
    scale = float(rounding.step().detach()[0])
    limits = grid.low - float(rounding.zero_point[0]), grid.high - float(rounding.zero_point[0])
    limits = (limits[0] - 0.5, limits[1] + 0.5) if grid.uniform else (1.000001 * limits[0], 1.000001 * limits[1])
    to_weight, to_scale = [], 0.0
    for value, factor in zip(weight.tolist(), above.tolist(), strict=True):
        position = value / scale
        nearest = min(members, key=lambda member: abs(member - position))
        inside = limits[0] <= position <= limits[1]
        to_weight.append(factor if inside or not grid.saturates else 0.0)
        to_scale += factor * (nearest - position if inside else nearest)
    return torch.tensor(to_weight), torch.tensor([to_scale / math.sqrt(len(weight) * grid.high)])


@pytest.mark.parametrize(("name", "bits"), SOME)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), shrink=st.sampled_from([0.4, 1.0, 1.7]))
@example(seed=1681, shrink=1.0)  # for codebook-4: the largest weight over the scale is the last integer, to rounding
def test_gradients_are_those_of_lsq(name: str, bits: int, seed: int, shrink: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight, above = (torch.randn(1, 24, generator=generator) for _ in range(2))
    rounding = rounding_of(name, bits, weight)
    with torch.no_grad():
        rounding.scale.mul_(shrink)
    leaf = weight.clone().requires_grad_()
    (rounding(leaf) * above).sum().backward()
    to_weight, to_scale = reference(rounding, weight[0], above[0])
    assert leaf.grad is not None
    assert torch.allclose(leaf.grad[0], to_weight, rtol=1e-4, atol=1e-6)
    assert rounding.scale.grad is not None
    assert torch.allclose(rounding.scale.grad, to_scale, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("granularity", BLOCKS)
@pytest.mark.parametrize("name", ["symmetric", "power_of_two", "codebook"])
def test_blocks_have_gradients_of_their_own(name: str, granularity: tuple[int, int]) -> None:
    """One module for all blocks against one module a block."""
    weight, above = torch.randn(3, 12), torch.randn(3, 12)
    rounding = rounding_of(name, 4, weight, granularity)
    (rounding(weight) * above).sum().backward()
    assert rounding.scale.grad is not None
    rows = rounding.rows(weight)
    for i, (row, gradient) in enumerate(zip(rows, rounding.rows(above), strict=True)):
        alone = rounding_of(name, 4, row[None])
        alone.scale.data = rounding.scale.detach().flatten()[i : i + 1]
        if rounding.table is not None:
            alone.table = nn.Parameter(rounding.table.detach())
        (alone(row[None]) * gradient).sum().backward()
        assert torch.allclose(rounding.scale.grad.flatten()[i : i + 1], alone.scale.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "bits"), [("codebook", 3), ("trained_ternary", 2)])
def test_gradients_of_a_trained_table(name: str, bits: int) -> None:
    """The sum over the weights that an entry stands for, times their scales; the codebook's two signs are one entry."""
    weight, above = torch.randn(4, 30), torch.randn(4, 30)
    rounding = rounding_of(name, bits, weight)
    (rounding(weight) * above).sum().backward()
    assert rounding.table is not None
    assert rounding.table.grad is not None
    entries = len(rounding.table)
    codes, scale = rounding.codes(weight), rounding.step().detach() * rounding.grid.high
    sums = [float((above * scale[:, None])[codes == code].sum()) for code in range(entries)]
    expected = [
        ((sums[code] - sums[-1 - code]) / 2 if name == "codebook" else sums[code]) if code != entries // 2 else 0.0
        for code in range(entries)
    ]
    damped = torch.tensor(expected) / math.sqrt(weight.numel() / entries)
    if name == "trained_ternary":
        at_the_limit = rounding.table.detach().abs() == 1.0
        assert torch.allclose(rounding.table.grad[~at_the_limit], damped[~at_the_limit], rtol=1e-3, atol=1e-5)
    else:
        assert torch.allclose(rounding.table.grad, damped, rtol=1e-3, atol=1e-5)


def trained(rounding: WeightFakeQuantize, weight: Tensor, steps: int = 100) -> tuple[float, float]:
    """Squared distance to `weight` before and after descending along the gradients of scale and table."""
    losses = []
    for _ in range(steps):
        loss = (rounding(weight) - weight).square().mean()
        gradients = torch.autograd.grad(loss, list(rounding.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(rounding.parameters(), gradients, strict=True):
                parameter -= 0.01 * parameter.abs().mean() * gradient.sign()
        losses.append(float(loss.detach()))
    return losses[0], losses[-1]


@pytest.mark.parametrize(("name", "bits"), [("codebook", 3), ("power_of_two", 3), ("trained_ternary", 2)])
def test_what_is_trained_comes_nearer_and_keeps_its_form(name: str, bits: int) -> None:
    """Of ten weights together: a table may be stuck for one of them."""
    first = last = 0.0
    for _ in range(10):
        weight = torch.randn(6, 60)
        rounding = rounding_of(name, bits, weight)
        with torch.no_grad():
            (rounding.scale if rounding.table is None else rounding.table).mul_(1.7 if rounding.table is None else 0.4)
        before, after = trained(rounding, weight)
        first, last = first + before, last + after
        fit = rounding.fit()
        assert bool((fit.scale > 0).all())
        if fit.table is not None:
            assert torch.equal(fit.table, fit.table.round())
            assert float(fit.table[len(fit.table) // 2]) == 0.0
    assert last < 0.75 * first


@pytest.mark.parametrize(("name", "bits"), [case for case in grid_cases() if case[0] != "binary"])
def test_pruned_weights_stay_exactly_zero(name: str, bits: int) -> None:
    weight = torch.randn(5, 4, 3, 3) * (torch.rand(5, 4, 3, 3) > 0.6)
    rounding = rounding_of(name, bits, weight)
    trained(rounding, weight, steps=5)
    with torch.no_grad():
        assert bool((rounding(weight)[weight == 0] == 0).all())
    assert bool((rounding.integers(weight)[weight == 0] == 0).all())


@pytest.mark.parametrize(("name", "bits"), grid_cases())
def test_zero_channels_constant_channels_and_outliers(name: str, bits: int) -> None:
    weight = torch.randn(4, 16)
    weight[0], weight[1], weight[2, 3] = 0.0, -0.7, 1e6
    leaf = weight.clone().requires_grad_()
    rounding = rounding_of(name, bits, weight)
    rounded = rounding(leaf)
    rounded.sum().backward()
    assert float(rounded[0].detach().abs().max()) <= 1e-11
    if name not in {"affine", "trained_ternary"}:
        assert torch.allclose(rounded[1], weight[1], rtol=0.02)
    assert bool(rounded.isfinite().all())
    assert leaf.grad is not None
    assert rounding.scale.grad is not None
    assert bool(leaf.grad.isfinite().all() and rounding.scale.grad.isfinite().all())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    weight = torch.randn(4, 16)
    weight[2, 5] = bad
    with pytest.raises(NumericsError, match="layer1: weights must be finite"):
        WeightFakeQuantize(GRIDS.load("ternary")(2), weight, where="layer1")


@pytest.mark.parametrize(("block", "rule"), [((1, 5), "must divide the 12 inputs"), ((2, 6), "lies in one output")])
def test_blocks_that_do_not_fit_are_refused(block: tuple[int, int], rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        rounding_of("symmetric", 4, torch.randn(4, 12), block)


def test_a_scale_that_training_made_negative_stays_usable() -> None:
    weight = torch.randn(4, 12)
    for name in ("power_of_two", "symmetric"):
        rounding = rounding_of(name, 4, weight)
        with torch.no_grad():
            rounding.scale.fill_(-1.0)
        assert bool(rounding(weight).isfinite().all())


IMAGES = torch.randn(5, 3, 8, 8)


def test_one_scale_for_the_network() -> None:
    network = capture(nn.Sequential(conv(3, 8), conv(8, 8), head(8)).eval(), IMAGES)
    scheme = Scheme(grid="codebook", bits=4, granularity=PER_NETWORK)
    decisions = tuple(LayerDecision(layer=layer, weight=scheme) for layer in ("0.0", "1.0"))
    other = LayerDecision(layer="2.2", weight=Scheme(grid="symmetric", bits=8, granularity=PER_TENSOR))
    result = apply(network, Plan(fingerprint=network.fingerprint, target="onnxruntime", layers=(*decisions, other)))
    first, second, third = (m for m in result.clone().module.modules() if isinstance(m, WeightFakeQuantize))
    assert first.scale is second.scale
    assert first.table is second.table
    assert third.scale is not first.scale
    weights = [network.module.get_parameter(f"{layer}.weight") for layer in ("0.0", "1.0")]
    together = torch.cat([weight.detach().flatten() for weight in weights])[None]
    alone = rounding_of("codebook", 4, together, PER_TENSOR)
    assert torch.equal(first.scale, alone.scale)
    assert len(list(result.parameters())) == len(list(network.parameters())) + 3
    smaller = cut(result, {network.group("0.0").name: [0, 2, 3, 6]})
    assert {tuple(m.scale.shape) for m in smaller.module.modules() if isinstance(m, WeightFakeQuantize)} == {(1,)}


def test_inputs_that_share_a_scale_are_not_cut() -> None:
    network = capture(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).eval(), torch.randn(5, 6))
    assert network.groups
    rounded = network.clone()
    decision = LayerDecision(layer="2", weight=Scheme(grid="symmetric", bits=4, granularity=(1, 4)))
    insert_fake_quantization(rounded.module, {"2": decision}, target("onnxruntime"))
    rounded.refresh()
    assert not rounded.groups
    assert any("groups of its inputs share a scale" in frozen.reason for frozen in rounded.frozen)
