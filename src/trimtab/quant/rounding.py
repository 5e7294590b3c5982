"""Rounding to evenly spaced values, straight through: what fake-quantization spends its time in."""

from typing import Any

import torch
from torch import Tensor


def round_to_grid(x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int, damping: float) -> Tensor:
    """`scale · (clamp(round(x / scale) + zero_point, low, high) − zero_point)`, of the type of `x`.

    `scale` and `zero_point` are [1]. With v = x / scale: ∂/∂x is 1 where round(v) is on the grid, else 0;
    ∂/∂scale is round(v) − v there, and the integer at the grid's end elsewhere; ∂/∂zero_point is 0 there, −scale
    elsewhere. The last two are multiplied by `damping`.
    Source: Esser et al. 2020, "Learned Step Size Quantization", eq. 3; Bhalgat et al. 2020, "LSQ+", eq. 5 and 6.
    """
    found: Tensor = _RoundToGrid.apply(x, scale, zero_point, low, high, damping)
    return found


class _RoundToGrid(torch.autograd.Function):
    """The values of `torch._fake_quantize_learnable_per_tensor_affine`, in whole-tensor operations, which vectorize.

    On a CPU that one takes an entry at a time.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int, damping: float) -> Tensor:
        zero = round(float(zero_point))
        ctx.save_for_backward(x, scale)
        ctx.low, ctx.high, ctx.damping = low - zero, high - zero, damping
        return (x * scale.reciprocal()).round_().clamp_(ctx.low, ctx.high).mul_(scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x, scale = ctx.saved_tensors
        step = float(scale)
        inside = torch.ops.aten.hardtanh_backward(gradient, x, (ctx.low - 0.5) * step, (ctx.high + 0.5) * step)
        of_scale = of_zero_point = None
        if ctx.needs_input_grad[1]:
            positions = x * scale.reciprocal()
            slopes = positions.round().clamp_(ctx.low, ctx.high).mul_(gradient)
            slopes.addcmul_(positions, inside.to(positions.dtype), value=-1)
            of_scale = (slopes.sum() * ctx.damping).reshape_as(scale)
        if ctx.needs_input_grad[2]:
            outside = gradient.sum(dtype=torch.float32) - inside.sum(dtype=torch.float32)
            of_zero_point = (-step * ctx.damping * outside).reshape_as(scale)
        return inside, of_scale, of_zero_point, None, None, None
