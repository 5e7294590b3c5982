"""Fake-quantization: equal to the grid in float64, straight-through gradients, learned scales as in the LSQ paper."""

import math

import pytest
import torch
from torch import Tensor, nn

from trimtab.errors import NumericsError, TaskError
from trimtab.quant import GRIDS, ActivationFakeQuantize, WeightFakeQuantize, calibrate


def fitted(data: Tensor, bits: int = 8, grid: str = "affine") -> ActivationFakeQuantize:
    site = ActivationFakeQuantize(GRIDS.load(grid)(bits), where="here")
    site.observe()
    site(data)
    site.fit()
    return site


def away_from_ties(x: Tensor, scale: Tensor) -> Tensor:
    position = (x.double() / scale.double()).remainder(1.0)
    return (position - 0.5).abs() > 1e-3


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("grid", ["affine", "symmetric"])
def test_activation_equals_the_grid_in_float64(bits: int, grid: str) -> None:
    data = torch.randn(64, 5) * 3 + 1
    site = fitted(data, bits, grid)
    x = torch.randn(64, 5) * 5
    scale, zero = float(site.scale.detach()), float(site.zero_point)
    expected = [
        [(min(max(round(v / scale) + zero, site.grid.low), site.grid.high) - zero) * scale for v in row]
        for row in x.double().tolist()
    ]
    far = away_from_ties(x, site.scale.detach())
    assert torch.allclose(site(x)[far].double(), torch.tensor(expected)[far].double(), rtol=1e-5, atol=1e-6)


def test_weight_equals_codes_times_scale() -> None:
    weight = torch.randn(6, 4, 3, 3) * torch.logspace(-3, 2, 6).view(-1, 1, 1, 1)
    rounding = WeightFakeQuantize(GRIDS.load("symmetric")(8), weight)
    expected = rounding.codes(weight).double() * rounding.scale.detach().double().view(-1, 1, 1, 1)
    assert torch.allclose(rounding(weight).double(), expected, rtol=1e-5)
    assert rounding.codes(weight).abs().flatten(1).amax(1).tolist() == [127.0] * 6


def test_gradient_passes_inside_and_stops_outside() -> None:
    site = fitted(torch.tensor([[-1.0, 3.0]]))
    x = torch.tensor([-2.0, -0.9, 0.0, 1.7, 2.9, 4.0], requires_grad=True)
    site(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 1.0, 0.0]


def test_scale_gradient_is_lsq() -> None:
    site = fitted(torch.randn(40) * 2, bits=4)
    x, weight = torch.randn(40) * 3, torch.randn(40)
    (site(x) * weight).sum().backward()
    scale, zero = float(site.scale.detach()), float(site.zero_point)
    expected = 0.0
    for value, factor in zip(x.tolist(), weight.tolist(), strict=True):
        position = value / scale
        if position + zero < site.grid.low - 0.5:
            expected += factor * (site.grid.low - zero)
        elif position + zero > site.grid.high + 0.5:
            expected += factor * (site.grid.high - zero)
        else:
            expected += factor * (round(position) - position)
    expected /= math.sqrt(len(x) * site.grid.high)
    assert site.scale.grad is not None
    assert float(site.scale.grad) == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_weight_scale_gradient_is_one_a_channel() -> None:
    weight = torch.randn(3, 10, requires_grad=True)
    rounding = WeightFakeQuantize(GRIDS.load("symmetric")(4), weight)
    with torch.no_grad():
        rounding.scale.mul_(0.5)  # so that some weights lie outside
    rounding(weight).square().sum().backward()
    position = (weight / rounding.scale[:, None]).detach().double()
    inside = position.round().abs() <= 7
    slope = torch.where(inside, position.round() - position, position.clamp(-7, 7).round())
    expected = (2 * rounding(weight).detach() * slope).sum(1) / math.sqrt(10 * 7)
    assert rounding.scale.grad is not None
    assert torch.allclose(rounding.scale.grad.double(), expected, rtol=1e-3, atol=1e-4)
    assert weight.grad is not None
    assert torch.equal(weight.grad != 0, inside & (rounding(weight) != 0))


def test_a_range_that_is_not_known_is_refused() -> None:
    site = ActivationFakeQuantize(GRIDS.load("affine")(8), where="layer1.relu")
    with pytest.raises(NumericsError, match=r"layer1\.relu: the activation range is not known"):
        site(torch.ones(2))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_range_that_is_not_finite_is_refused(bad: float) -> None:
    site = ActivationFakeQuantize(GRIDS.load("affine")(8), where="conv")
    site.observe()
    with pytest.raises(NumericsError, match="conv: this activation is NaN or infinite"):
        site(torch.tensor([0.0, bad, 1.0]))


def test_observing_passes_values_through_and_spans_batches() -> None:
    site = ActivationFakeQuantize(GRIDS.load("affine")(8), where="x")
    batches = [torch.tensor([0.5, 1.0]), torch.tensor([-2.0, 0.1])]
    calibrate(nn.Sequential(site), batches)
    assert float(site.scale.detach()) == pytest.approx(3.0 / 255)
    assert float(site.zero_point) == 170
    assert torch.equal(site(torch.tensor([0.0])), torch.tensor([0.0]))


def test_calibration_needs_data() -> None:
    with pytest.raises(TaskError, match="no batches"):
        calibrate(nn.Sequential(ActivationFakeQuantize(GRIDS.load("affine")(8), where="x")), [])


def test_a_scale_that_training_made_negative_stays_usable() -> None:
    site = fitted(torch.randn(10))
    with torch.no_grad():
        site.scale.fill_(-1.0)
    assert float(site.step().detach()) > 0
    assert bool(site(torch.randn(10)).isfinite().all())
