"""The two operators that a folded graph adds to ATen; in ONNX they are QuantizeLinear and DequantizeLinear."""

import torch
from torch import Tensor


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
    """Values of `codes`; `scale` and `zero_point` are scalars, or vectors along dimension 0."""
    shape = (-1,) + (1,) * (codes.dim() - 1) if scale.dim() else ()
    return (codes.float() - zero_point.float().view(shape)) * scale.view(shape)


@dequantize.register_fake
def _(codes: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return torch.empty_like(codes, dtype=torch.float32)


QUANTIZE = torch.ops.trimtab.quantize.default
DEQUANTIZE = torch.ops.trimtab.dequantize.default
