"""The integer simulation as XNNPACK's kernels compute: where they round otherwise than ONNX Runtime's."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from trimtab.graph.layers import OPERATORS as LAYERS
from trimtab.quant.integer import Codes, IntegerSimulation, Pending
from trimtab.quant.ops import QUANTIZE

aten = torch.ops.aten


class XnnpackSimulation(IntegerSimulation):
    """Runs a folded graph on codes with XNNPACK's formulas.

    Source: XNNPACK `src/microparams-init.c` (addition in 20-bit fixed point) and `src/qd8-*` (dynamic quantization).
    """

    def run_node(self, n: Node) -> Any:
        """Floats are multiplied by the reciprocal of the scale."""
        if n.target == QUANTIZE:
            x, scale, zero = self.fetch_args_kwargs_from_env(n)[0]
            if isinstance(x, Tensor):
                limits = torch.iinfo(zero.dtype)
                codes = (x * (1 / scale)).round() + zero
                return Codes(codes.clamp(limits.min, limits.max), scale, zero.float())
        return super().run_node(n)

    def _on_codes(self, n: Node, args: Any) -> Codes | Pending | None:
        if n.target in {aten.add.Tensor, aten.add_.Tensor} and all(isinstance(value, Codes) for value in args[:2]):
            return _add(*args[:2])
        return super()._on_codes(n, args)

    def _layer(self, n: Node, x: Codes, weight: Codes, bias: Tensor, *rest: Any) -> Pending:
        pending = super()._layer(n, x, weight, bias, *rest)
        if LAYERS[n.target] != "linear":
            return pending
        return Pending(write=pending.write, read=lambda: _linear_of_rows(x.values(), weight, bias))


def _add(a: Codes, b: Codes) -> Pending:
    def write(scale: Tensor, zero: Tensor) -> Tensor:
        ratios = [float((value.scale / scale).float()) for value in (a, b)]
        shift = 20 - math.floor(math.log2(max(ratios)))
        first, second = (round(ratio * 2.0**shift) for ratio in ratios)
        total = a.centred().double() * first + b.centred().double() * second + 2.0 ** (shift - 1)
        return (total / 2.0**shift).floor().float() + zero

    return Pending(write=write, read=lambda: a.values() + b.values())


def _linear_of_rows(x: Tensor, weight: Codes, bias: Tensor) -> Tensor:
    """Each row is rounded to its own range, which holds zero, and the bias is added in float."""
    low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    scale = torch.where(high > low, (high - low) / 255, torch.ones_like(high))
    from_low, from_high = -128 - low / scale, 127 - high / scale
    zero = torch.where((-128 + low / scale) + (127 + high / scale) > 0, from_low, from_high)
    zero = zero.clamp(-128, 127).round()
    codes = ((x * (1 / scale)).round() + zero).clamp(-128, 127)
    total = (codes - zero).double() @ weight.codes.double().T
    return (total.float() * scale) * weight.scale + bias
