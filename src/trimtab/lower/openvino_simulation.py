"""The integer simulation as OpenVINO's kernels compute: where they round otherwise than ONNX Runtime's."""

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from trimtab.quant.integer import Codes, IntegerSimulation, Pending
from trimtab.quant.ops import QUANTIZE

aten = torch.ops.aten

_ADDITIONS: set[object] = {aten.add.Tensor, aten.add_.Tensor}


class OpenVinoSimulation(IntegerSimulation):
    """Runs a folded graph on codes with OpenVINO's formulas, in float32 and in its order of roundings.

    A kernel multiplies its accumulator by the scales, then adds the bias. A sum with codes is computed in units of
    their scale. Rounding multiplies by 255 over the width of the range, both ends of which are rounded to float32.
    """

    def run_node(self, n: Node) -> Any:
        """Floats are rounded like the results of kernels."""
        if n.target == QUANTIZE:
            x, scale, zero = self.fetch_args_kwargs_from_env(n)[0]
            if isinstance(x, (Tensor, Pending)):
                limits = torch.iinfo(zero.dtype)
                pending = x if isinstance(x, Pending) else _pending(x)
                codes = pending.write(scale, zero.float() - limits.min) + limits.min
                return Codes(codes.clamp(limits.min, limits.max), scale, zero.float())
        return super().run_node(n)

    def _on_codes(self, n: Node, args: Any) -> Codes | Pending | None:
        if n.target in _ADDITIONS:
            codes = [value for value in args[:2] if isinstance(value, Codes)]
            others = [value for value in args[:2] if not isinstance(value, Codes)]
            if len(codes) == 2:
                return _pending(codes[0].values() + codes[1].values())
            if codes and isinstance(others[0], (Tensor, Pending)):
                (it,), (x,) = codes, others
                values = x.read() if isinstance(x, Pending) else x
                return _pending(values * (1 / it.scale) + it.centred(), it.scale)
            return None
        if n.target == aten.mean.dim and isinstance(args[0], Codes):
            return _pending(aten.mean.dim(args[0].centred(), *args[1:]), args[0].scale)
        return super()._on_codes(n, args)

    def _layer(self, n: Node, x: Codes, weight: Codes, bias: Tensor, *rest: Any) -> Pending:
        products = super()._layer(n, x, weight, torch.zeros_like(bias), *rest)
        return _pending(products.read() + bias.view(1, -1, *(1,) * (weight.codes.dim() - 2)))


def _pending(values: Tensor, unit: Tensor | None = None) -> Pending:
    """Floats in units of a scale (default: 1), to be rounded or read. The zero point counts from the lowest code."""
    one = torch.ones(()) if unit is None else unit

    def write(scale: Tensor, zero: Tensor) -> Tensor:
        low, high = -zero * scale / one, (255 - zero) * scale / one
        steps = 255 / (high - low)
        return (values * steps - low * steps).round()

    return Pending(write=write, read=lambda: values if unit is None else values * unit)
