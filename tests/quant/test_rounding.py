"""Fake-quantization, against torch's own operator, entry by entry."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.quant.rounding import round_to_grid


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 8), st.floats(1e-4, 1e3), st.floats(0, 1), st.booleans())
def test_values_and_gradients_are_those_of_torch(
    seed: int, bits: int, scale: float, zero: float, channels_last: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    low, high = 0, 2**bits - 1
    x = torch.randn(3, 4, 5, 6, generator=generator) * scale * high
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    weighting = torch.randn(x.shape, generator=generator)
    found = []
    for rounding in (round_to_grid, torch._fake_quantize_learnable_per_tensor_affine):
        arguments = [x.clone(), torch.tensor([scale]), torch.tensor([float(round(zero * high))])]
        for argument in arguments:
            argument.requires_grad_()
        values, step, zero_point = arguments
        y = rounding(values, step, zero_point, low, high, 0.01)
        found.append([y.detach(), *torch.autograd.grad((y * weighting).sum(), arguments)])
    ours, theirs = found
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])
    assert ours[2] == pytest.approx(theirs[2], rel=1e-3, abs=1e-3)
    assert ours[3] == pytest.approx(theirs[3], rel=1e-3, abs=1e-4 * scale)


def test_bfloat16_goes_through_float32() -> None:
    x = torch.randn(1000).bfloat16()
    y = round_to_grid(x, torch.tensor([0.01]), torch.zeros(1), -128, 127, 1.0)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, round_to_grid(x.float(), torch.tensor([0.01]), torch.zeros(1), -128, 127, 1.0).bfloat16())


def test_a_scale_that_stays_gets_no_gradient() -> None:
    x = torch.randn(100, requires_grad=True)
    scale = torch.tensor([0.5])
    (gradient,) = torch.autograd.grad(round_to_grid(x, scale, torch.zeros(1), -2, 1, 1.0).sum(), x)
    assert torch.equal(gradient, ((x > -1.25) & (x < 0.75)).float())
