"""The operators that a folded graph adds to ATen; in ONNX: QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear."""

import torch
from torch import Tensor

from trimtab.quant.dynamic import dynamic_range


@torch.library.custom_op("trimtab::quantize", mutates_args=())
def quantize(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Codes in the dtype of `zero_point` (a scalar, as is `scale`): round half to even, then clamp to that dtype."""
    limits = torch.iinfo(zero_point.dtype)
    return ((x / scale).round() + zero_point).clamp(limits.min, limits.max).to(zero_point.dtype)


@quantize.register_fake
def _(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return torch.empty_like(x, dtype=zero_point.dtype)


@torch.library.custom_op("trimtab::dequantize", mutates_args=())
def dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Values of `codes`; `scale` and `zero_point` are scalars, or vectors along dimension 0.

    Or they are [rows, blocks] for a matrix of codes: every row has its inputs in blocks of one size.
    """
    if scale.dim() == 2:
        blocks = (
            codes.to(torch.float32, copy=True).unflatten(1, (scale.shape[1], -1)).sub_(zero_point.float()[:, :, None])
        )
        return blocks.mul_(scale[:, :, None]).flatten(1)
    shape = (-1,) + (1,) * (codes.dim() - 1) if scale.dim() else ()
    return codes.to(torch.float32, copy=True).sub_(zero_point.float().view(shape)).mul_(scale.view(shape))


@dequantize.register_fake
def _(codes: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return torch.empty_like(codes, dtype=torch.float32)


@torch.library.custom_op("trimtab::dynamic_quantize", mutates_args=())
def dynamic_quantize(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """uint8 codes, scale and zero point (scalars) of a tensor whose own range they span (`dynamic_range`)."""
    scale, zero_point = dynamic_range(x)
    codes = ((x / scale).round() + zero_point).clamp(0, 255)
    return codes.to(torch.uint8), scale, zero_point.to(torch.uint8)


@dynamic_quantize.register_fake
def _(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x, dtype=torch.uint8), x.new_empty(()), x.new_empty((), dtype=torch.uint8)


QUANTIZE = torch.ops.trimtab.quantize.default
DEQUANTIZE = torch.ops.trimtab.dequantize.default
DYNAMIC_QUANTIZE = torch.ops.trimtab.dynamic_quantize.default
