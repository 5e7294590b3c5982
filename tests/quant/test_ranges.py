"""Ranges of activations: against brute force on the values themselves, whatever the batches and whatever is odd."""

import math
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from trimtab.errors import ConfigError, NumericsError, TaskError
from trimtab.quant import GRIDS, ActivationFakeQuantize, calibrate
from trimtab.quant.ranges import RANGES, Range, suited_to
from trimtab.quant.ranges.histogram import Histogram
from trimtab.quant.ranges.mse import squared_errors

HISTOGRAM_BASED = ["entropy", "mse", "percentile"]


def ranged(name: str, batches: list[Tensor], grid: str = "affine", bits: int = 8) -> Range:
    estimator = RANGES.load(name)()
    for batch in batches:
        estimator.see(batch)
    found: Range = estimator.range(GRIDS.load(grid)(bits))
    return found


def rounding_error(x: Tensor, grid: str, bits: int, low: float, high: float) -> float:
    """Mean squared error in float64, with numpy, of rounding as the grid says."""
    values = x.double().numpy()
    low, high = min(low, 0.0), max(high, 0.0)
    if grid == "symmetric":
        top = 2 ** (bits - 1) - 1
        scale = max(-low, high) / top or 1.0
        codes = np.clip(np.round(values / scale), -top, top)
        return float(np.square(codes * scale - values).mean())
    top = 2**bits - 1
    scale = (high - low) / top or 1.0
    zero = np.clip(np.round(-low / scale), 0, top)
    codes = np.clip(np.round(values / scale) + zero, 0, top)
    return float(np.square((codes - zero) * scale - values).mean())


def least_error(x: Tensor, grid: str, bits: int) -> float:
    """Brute force over both ends."""
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    shares = np.geomspace(0.02, 1, 60)
    lows = shares if low < 0 and grid == "affine" else [1.0]
    return min(
        rounding_error(x, grid, bits, low * (a if grid == "affine" else b), high * b) for a in lows for b in shares
    )


def relu_like(n: int = 4000) -> Tensor:
    return torch.randn(n).relu()


@pytest.mark.parametrize(
    ("grid", "bits"), [("affine", 1), ("affine", 2), ("affine", 4), ("affine", 8), ("symmetric", 2)]
)
@pytest.mark.parametrize("kind", ["relu", "signed", "skew", "negative"])
def test_mse_is_as_good_as_brute_force(grid: str, bits: int, kind: str) -> None:
    n = 4000 if bits < 8 else 40_000  # few values have a range of many levels that suits them by luck
    x = {
        "relu": relu_like(n),
        "signed": torch.randn(n) + 0.3,
        "skew": torch.randn(n).exp() - 0.5,
        "negative": -torch.rand(n) - 1,
    }[kind]
    low, high = ranged("mse", [x], grid, bits)
    assert rounding_error(x, grid, bits, float(low), float(high)) <= 1.02 * least_error(x, grid, bits) + 1e-9


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([2, 4, 8, 16]), st.sampled_from(["affine", "symmetric"]))
def test_the_closed_form_is_the_error_of_the_values(seed: int, bits: int, grid: str) -> None:
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(seed)) + 0.2
    histogram, kind = Histogram(), GRIDS.load(grid)(bits)
    histogram.see(x)
    ends = torch.tensor([-0.9], dtype=torch.float64), torch.tensor([1.7], dtype=torch.float64)
    errors = squared_errors(histogram.segments(), kind, kind.fit_range(*ends))
    expected = rounding_error(x, grid, bits, -0.9, 1.7) * len(x)
    assert float(errors) == pytest.approx(expected, rel=0.01)


def test_percentile_leaves_out_a_ten_thousandth_at_each_end() -> None:
    x = torch.randn(400_000)
    low, high = ranged("percentile", [x[:90_000], x[90_000:]])
    for end, share in ((low, 1e-4), (high, 1 - 1e-4)):
        exact = float(np.quantile(x.numpy(), share))
        assert float(end) == pytest.approx(exact, rel=0.01)


def test_percentile_of_few_values_is_all_of_them() -> None:
    x = torch.randn(900)
    assert [float(end) for end in ranged("percentile", [x])] == [float(x.min()), float(x.max())]


def test_moving_average_weighs_the_last_batches_most() -> None:
    extremes = [(-1.0, 2.0), (-3.0, 1.0), (-2.0, 8.0)]
    low, high = ranged("moving_average", [torch.tensor([a, 0.0, b]) for a, b in extremes])
    weights = np.array([0.81, 0.9, 1.0])
    expected = (weights[:, None] * np.array(extremes)).sum(0) / weights.sum()
    assert [float(low), float(high)] == pytest.approx(expected.tolist())


def divergences_of_tensorrt(magnitudes: np.ndarray, levels: int, bins: int = 2048) -> dict[int, float]:
    """The divergence by the number of bins kept, as on Migacz's slides: plain loops over the exact histogram."""
    magnitudes = magnitudes[magnitudes > 0]
    counts, _ = np.histogram(magnitudes, bins, (0, magnitudes.max()))
    found = {}
    for kept in range(levels, bins + 1, 16):
        reference, spread = counts[:kept].astype(float), np.zeros(kept)
        for level in range(levels):
            cells = [i for i in range(kept) if i * levels // kept == level]
            filled = [i for i in cells if counts[i]]
            for i in filled:
                spread[i] = counts[cells].sum() / len(filled)
        reference[-1] += counts[kept:].sum()
        if not reference[-1] or spread[-1]:
            p, q = reference / reference.sum(), spread / spread.sum()
            found[kept] = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a)
    return found


@pytest.mark.parametrize("bits", [3, 4])
def test_entropy_loses_as_little_as_the_best_threshold_of_the_slides(bits: int) -> None:
    x = torch.empty(100_000).exponential_().pow(1.5)
    _, high = ranged("entropy", [x], bits=bits)
    divergences = divergences_of_tensorrt(x.numpy(), 2**bits)
    kept = float(high / x.max()) * 2048
    nearest = min(divergences, key=lambda bins: abs(bins - kept))
    assert divergences[nearest] <= 1.15 * min(divergences.values())
    assert divergences[max(divergences)] > 1.15 * divergences[nearest]


def test_entropy_treats_both_signs_alike_and_goes_no_farther_than_the_values() -> None:
    x = torch.cat([torch.randn(50_000), torch.tensor([30.0])])
    low, high = ranged("entropy", [x])
    assert float(x.min()) <= float(low) < -2
    assert 2 < float(high) < 10


@pytest.mark.parametrize("name", [n for n in RANGES if n != "moving_average"])
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.randoms(use_true_random=False))
def test_the_order_and_the_size_of_batches_do_not_matter(name: str, seed: int, random: Random) -> None:
    x = torch.randn(3000, generator=torch.Generator().manual_seed(seed)) * 3
    size = random.randint(300, 2000)
    pieces = [x[start : start + size] for start in range(0, len(x), size)]
    random.shuffle(pieces)
    for one, other in zip(ranged(name, [x], bits=4), ranged(name, pieces, bits=4), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", list(RANGES))
@pytest.mark.parametrize("bits", [1, 4, 8, 16])
@pytest.mark.parametrize("value", [0.0, 2.5, -1e-3, 1e30, 1e-8])
def test_constants_are_represented(name: str, bits: int, value: float) -> None:
    site = ActivationFakeQuantize(GRIDS.load("affine")(bits), "here", name)
    x = torch.full((40,), value)
    calibrate(nn.Sequential(site), [x, x])
    assert torch.allclose(site(x), x, rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", list(RANGES))
@pytest.mark.parametrize("bits", [2, 8])
def test_an_outlier_of_a_million_leaves_a_finite_range(name: str, bits: int) -> None:
    x = torch.randn(200_000).relu()
    low, high = ranged(name, [x, torch.tensor([0.0, 1e6])], bits=bits)
    assert float(low) == 0
    expected = {"minmax": (1e6, 1e6), "moving_average": (4e5, 6e5), "mse": (5e5, 1.2e6)}
    least, most = expected.get(name, (1.5, 6.0))  # the others leave it out
    assert least <= float(high) <= most


@pytest.mark.parametrize("name", list(RANGES))
def test_half_precision_and_strided_values_are_seen(name: str) -> None:
    x = torch.randn(3, 8, 5, 5, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    for one, other in zip(ranged(name, [x[:, ::2]]), ranged(name, [x[:, ::2].float().contiguous()]), strict=True):
        assert torch.equal(one, other)


def test_a_histogram_holds_every_value_between_its_ends() -> None:
    x = torch.cat([torch.randn(5000), torch.zeros(7), torch.tensor([-0.0, 1e-42, 3e38, -1e-20])])
    histogram = Histogram()
    histogram.see(x)
    segments = histogram.segments()
    assert float(segments.total) == len(x)
    assert bool((segments.low <= segments.high).all())
    assert bool((segments.high[:-1] <= segments.low[1:]).all())
    for end in (0.0, 0.7, -1.3):
        exact = int((x <= end).sum())
        assert float(segments.below(torch.tensor([end], dtype=torch.float64))) == pytest.approx(exact, abs=40)


def make_site(ranges: str = "minmax") -> ActivationFakeQuantize:
    return ActivationFakeQuantize(GRIDS.load("affine")(8), "layer1.relu", ranges)


@pytest.mark.parametrize("ranges", list(RANGES))
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_by_name_and_the_old_range_stays(ranges: str, bad: float) -> None:
    module = make_site(ranges)
    calibrate(nn.Sequential(module), [torch.linspace(0, 1, 50)])
    before = module.scale.detach().clone()
    with pytest.raises(NumericsError, match=r"layer1\.relu: this activation is NaN or infinite"):
        calibrate(nn.Sequential(module), [torch.tensor([0.0, bad, 9.0])])
    assert not module.observing
    assert torch.equal(module.scale.detach(), before)


def test_an_activation_that_no_batch_reaches_is_named() -> None:
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = make_site(), make_site()
            self.unused.where = "layer2.relu"

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.used(x)
            return result

    forked = Forked()
    with pytest.raises(NumericsError, match=r"layer2\.relu: no calibration batch reached this activation"):
        calibrate(forked, [torch.rand(4)])
    with pytest.raises(NumericsError, match="range is not known yet"):
        forked.used(torch.rand(4))


def test_batches_without_rows_are_as_good_as_none() -> None:
    with pytest.raises(NumericsError, match="no calibration batch reached"):
        calibrate(nn.Sequential(make_site()), [torch.zeros(0, 3)])
    with pytest.raises(TaskError, match="no batches"):
        calibrate(nn.Sequential(make_site("mse")), [])


def test_an_unknown_range_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="unknown range 'max'; known: entropy, minmax, moving_average"):
        make_site("max")


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_the_suited_range_is_near_the_least_error_behind_a_relu(bits: int) -> None:
    x = relu_like()
    low, high = ranged(suited_to(bits), [x], bits=bits)
    slack = 1.02 if bits < 8 else 1.5
    assert rounding_error(x, "affine", bits, float(low), float(high)) <= slack * least_error(x, "affine", bits)
