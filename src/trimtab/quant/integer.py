"""The integer simulation: a folded graph executed on codes, with the runtime's own order of float32 operations.

A value is a tensor, or `Codes`, or what a kernel has not yet written (`Pending`): that becomes codes where the graph
quantizes it and floats anywhere else. Sums of products are exact, because integers below 2^24 (float32) or 2^53
(float64) are. The formulas were found by comparison with ONNX Runtime's kernels and are tested row for row against them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from trimtab.graph.layers import OPERATORS as LAYERS
from trimtab.quant.ops import DEQUANTIZE, QUANTIZE
from trimtab.quant.placement import MOVES

aten = torch.ops.aten


@dataclass(frozen=True)
class Codes:
    """Integers (as float32) that stand for `scale · (codes − zero_point)`; scale is a scalar or one value a row."""

    codes: Tensor
    scale: Tensor
    zero_point: Tensor

    def centred(self) -> Tensor:
        """codes − zero_point, exact."""
        return self.codes - self.zero_point.view((-1,) + (1,) * (self.codes.dim() - 1) if self.zero_point.dim() else ())

    def values(self) -> Tensor:
        """The floats that the codes stand for."""
        return self.centred() * self.scale.view((-1,) + (1,) * (self.codes.dim() - 1) if self.scale.dim() else ())


@dataclass(frozen=True)
class Pending:
    """A kernel's result before it is written: `write(scale, zero_point)` gives its codes before clamping, `read()` its floats."""

    write: Callable[[Tensor, Tensor], Tensor]
    read: Callable[[], Tensor]


class IntegerSimulation(Interpreter):
    """Runs a folded graph in integers wherever the runtime does. `IntegerSimulation(folded).run(*inputs)`."""

    def __init__(self, folded: GraphModule) -> None:
        super().__init__(folded)
        self._weights: dict[Node, Tensor] = {}

    @torch.no_grad()
    def __call__(self, *inputs: Any) -> Any:
        """Outputs for flat or structured `inputs`, as the folded module itself would give them."""
        return self.run(*inputs)

    def run_node(self, n: Node) -> Any:
        """One node, on codes where there are any."""
        if n.op == "output":
            return torch.fx.node.map_arg(n.args[0], lambda node: _floats(self.env[node]))
        if n.op != "call_function":
            return super().run_node(n)
        args = self.fetch_args_kwargs_from_env(n)[0]
        if n.target == QUANTIZE:
            return _quantize(*args)
        if n.target == DEQUANTIZE:
            codes = args[0].codes if isinstance(args[0], Codes) else args[0].float()
            return Codes(codes, args[1], args[2].float())
        if n.target in LAYERS and isinstance(args[0], Codes) and isinstance(args[1], Codes):
            return self._layer(n, *args)
        if n.target in (aten.add.Tensor, aten.add_.Tensor) and all(isinstance(a, Codes) for a in args[:2]):
            return _add(*args[:2])
        if n.target in (aten.mean.dim, aten.avg_pool2d.default) and isinstance(args[0], Codes):
            return _average(n, *args)
        if n.target == aten.cat.default and all(isinstance(a, Codes) for a in args[0]):
            return _concatenate(*args)
        if n.target in MOVES and isinstance(args[0], Codes):
            return _move(n, *args)
        return n.target(*map(_floats_in, args), **n.kwargs)  # type: ignore[operator]

    def _layer(self, n: Node, x: Codes, weight: Codes, bias: Tensor, *rest: Any) -> Pending:
        assert callable(n.target)
        step = x.scale * weight.scale
        shape = (1, -1) + (1,) * (weight.codes.dim() - 2)
        bias_codes = (bias / step).round()
        exact = self._accumulator_dtype(n, weight, bias_codes)
        products = n.target(x.centred().to(exact), weight.codes.to(exact), None, *rest)
        total = (products.double() + bias_codes.double().view(shape)).float()
        return Pending(
            write=lambda scale, zero: (total * (step / scale).view(shape)).round() + zero,
            read=lambda: total * step.view(shape),
        )

    @staticmethod
    def _accumulator_dtype(n: Node, weight: Codes, bias_codes: Tensor) -> torch.dtype:
        """float32 where no partial sum can leave its exact integers, whatever the order of summation."""
        largest = weight.codes.abs().flatten(1).sum(1).max() * 255
        return torch.float32 if float(largest) < 2**24 else torch.float64


def _quantize(x: Any, scale: Tensor, zero_point: Tensor) -> Codes:
    limits = torch.iinfo(zero_point.dtype)
    zero = zero_point.float()
    if isinstance(x, Codes):
        x = x.values()
    codes = x.write(scale, zero) if isinstance(x, Pending) else (x / scale).round() + zero
    return Codes(codes.clamp(limits.min, limits.max), scale, zero)


def _add(a: Codes, b: Codes) -> Pending:
    def write(scale: Tensor, zero: Tensor) -> Tensor:
        # Each line is one float32 rounding in the kernel: the products are exact in float64, so that is a fused multiply-add.
        ra, rb = a.scale / scale, b.scale / scale
        offset = zero - (ra * a.zero_point + rb * b.zero_point)
        partial = (a.codes.double() * ra.double() + offset.double()).float()
        return (b.codes.double() * rb.double() + partial.double()).float().round()

    return Pending(write=write, read=lambda: a.values() + b.values())


def _average(n: Node, x: Codes, *rest: Any) -> Any:
    if n.target == aten.avg_pool2d.default:
        return n.target(x.values(), *rest)  # type: ignore[operator]
    total = x.centred().sum((2, 3), keepdim=True)
    count = float(x.codes.shape[2] * x.codes.shape[3])
    return Pending(
        write=lambda scale, zero: (total * (x.scale / (scale * count))).round() + zero,
        read=lambda: total * (x.scale / count),
    )


def _concatenate(parts: list[Codes], dim: int = 0) -> Any:
    first = parts[0]
    if all(torch.equal(p.scale, first.scale) and torch.equal(p.zero_point, first.zero_point) for p in parts):
        return Codes(torch.cat([p.codes for p in parts], dim), first.scale, first.zero_point)
    return torch.cat([p.values() for p in parts], dim)


def _move(n: Node, x: Codes, *rest: Any) -> Codes:
    assert callable(n.target)
    if n.target == aten.constant_pad_nd.default:
        return Codes(n.target(x.codes, rest[0], float(x.zero_point)), x.scale, x.zero_point)
    if n.target == aten.pad.default:
        return Codes(aten.constant_pad_nd.default(x.codes, rest[0], float(x.zero_point)), x.scale, x.zero_point)
    return Codes(n.target(x.codes, *rest, **n.kwargs), x.scale, x.zero_point)


def _floats(value: Any) -> Any:
    if isinstance(value, Codes):
        return value.values()
    return value.read() if isinstance(value, Pending) else value


def _floats_in(argument: Any) -> Any:
    if isinstance(argument, (list, tuple)):
        return type(argument)(map(_floats_in, argument))
    return _floats(argument)
