"""The integer simulation as OpenVINO's kernels compute: where they round otherwise than ONNX Runtime's."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from trimtab.graph.layers import OPERATORS as LAYERS
from trimtab.quant.integer import Codes, IntegerSimulation, Pending, fused
from trimtab.quant.operators import AVERAGE_POOLS
from trimtab.quant.ops import QUANTIZE

aten = torch.ops.aten

_ADDITIONS: set[object] = {aten.add.Tensor, aten.add_.Tensor}
_MEANS: set[object] = {aten.mean.dim, *AVERAGE_POOLS}
_ALIKE = 5e-5


class OpenVinoSimulation(IntegerSimulation):
    """Runs a folded graph on codes with OpenVINO's formulas, in float32 and in its order of roundings.

    Rounding multiplies by 255 over the width of the range, both ends of which are rounded to float32, and adds the code
    of 0 in one fused operation; a convolution whose codes begin at 0 divides by the reciprocal instead. A convolution
    multiplies its accumulator by the scales, then adds the bias, and sums with codes in units of their scale. A linear
    layer takes its scales and its bias into the rounding; both take their scales into it where there is no bias.
    """

    def run_node(self, n: Node) -> Any:
        """Floats are rounded like the results of kernels."""
        if n.target == QUANTIZE:
            x, scale, zero = self.fetch_args_kwargs_from_env(n)[0]
            if isinstance(x, (Tensor, Pending)):
                limits = torch.iinfo(zero.dtype)
                pending = x if isinstance(x, Pending) else _of_floats(x)
                codes = pending.write(scale, zero.float() - limits.min) + limits.min
                return Codes(codes.clamp(limits.min, limits.max), scale, zero.float())
        return super().run_node(n)

    def _on_codes(self, n: Node, args: Any) -> Codes | Pending | None:
        if n.target in _ADDITIONS:
            codes = [value for value in args[:2] if isinstance(value, Codes)]
            others = [value for value in args[:2] if not isinstance(value, Codes)]
            if len(codes) == 2:
                return _of_floats(codes[0].values() + codes[1].values())
            if codes and isinstance(others[0], (Tensor, Pending)):
                (it,), (x,) = codes, others
                values = x.read() if isinstance(x, Pending) else x
                return _of_convolution((values - it.zero_point * it.scale) * (1 / it.scale) + it.codes, it.scale)
            return None
        if n.target in _MEANS and isinstance(args[0], Codes):
            return _of_mean(args[0], n.target(args[0].codes, *args[1:]))  # type: ignore[operator]
        return super()._on_codes(n, args)

    def _layer(self, n: Node, x: Codes, weight: Codes, bias: Tensor, *rest: Any) -> Pending:
        one, shape = torch.ones(()), (1, -1, *(1,) * (weight.codes.dim() - 2))
        unscaled = replace(x, scale=one), replace(weight, scale=torch.ones_like(weight.scale))
        products = super()._layer(n, *unscaled, torch.zeros_like(bias), *rest).read()
        step, linear = (x.scale * weight.scale).view(shape), LAYERS[n.target] == "linear"
        bias = bias.view(shape)
        if linear:  # int32 in the file
            bias = (bias.double() / step.double()).round().float() * step
        if not bias.any():
            left_in = x.zero_point * weight.codes.sum(1) if linear else torch.zeros(())
            return _of_products(products + left_in, step, left_in)
        if linear:
            return _of_linear(products, step, bias)
        return _of_convolution(products * step + bias, one)


def _ladder(scale: Tensor, zero: Tensor, unit: Tensor, start: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    """Codes to one `unit`, and the code of 0 where the value 0 is at `start`. The zero point counts from the lowest."""
    low, high = -zero * scale / unit + start, (255 - zero) * scale / unit + start
    levels = torch.full_like(high, 255)  # torch would multiply a number by the reciprocal of the width
    return levels / (high - low), low.neg() * levels / (high - low)


def _of_floats(values: Tensor) -> Pending:
    """What any other kernel computed, to be rounded or read."""

    def write(scale: Tensor, zero: Tensor) -> Tensor:
        return fused(values, *_ladder(scale, zero, torch.ones(()))).round()

    return Pending(write=write, read=lambda: values)


def _of_convolution(values: Tensor, unit: Tensor) -> Pending:
    """Floats in units of a scale. Where the code of 0 is 0, the kernel divides by a scale, through its reciprocal."""

    def write(scale: Tensor, zero: Tensor) -> Tensor:
        steps, origin = _ladder(scale, zero, unit)
        return (fused(values, steps, origin) if bool(zero) else values * (1 / (1 / steps))).round()

    return Pending(write=write, read=lambda: values * unit)


def _of_linear(products: Tensor, step: Tensor, bias: Tensor) -> Pending:
    """Two numbers a channel are rounded before: the codes to one product, and the code of the bias."""

    def write(scale: Tensor, zero: Tensor) -> Tensor:
        steps, origin = _ladder(scale, zero, torch.ones(()))
        return (products * (step * steps) + (origin + bias * steps)).round()

    return Pending(write=write, read=lambda: products * step + bias)


def _of_products(products: Tensor, step: Tensor, start: Tensor) -> Pending:
    """Without a bias the range is in units of the products, whose 0 is at `start`: in a linear layer, of plain codes.

    Codes of 0 that are nearly the same in all channels are taken for the same.
    """

    def write(scale: Tensor, zero: Tensor) -> Tensor:
        steps, origin = _ladder(scale, zero, step, start)
        first = origin.flatten()[0]
        alike = bool(((origin - first).abs() < _ALIKE).all())
        return (products * steps + (first if alike else origin)).round()

    return Pending(write=write, read=lambda: (products - start) * step)


def _of_mean(x: Codes, mean: Tensor) -> Pending:
    """The mean of the codes; their zero point is taken off with the code of 0."""

    def write(scale: Tensor, zero: Tensor) -> Tensor:
        steps, origin = _ladder(scale, zero, x.scale)
        return fused(mean, steps, origin - x.zero_point * steps).round()

    return Pending(write=write, read=lambda: (mean - x.zero_point) * x.scale)
