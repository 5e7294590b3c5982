"""The integer simulation: a folded graph executed on codes, with the runtime's own order of float32 operations.

A value is a tensor, or `Codes`, or what a kernel has not yet written (`Pending`): that becomes codes where the graph
quantizes it and floats anywhere else. Sums of products are exact, because integers below 2^24 (float32) or 2^53
(float64) are. The formulas are those of ONNX Runtime's kernels and are tested row for row against them; an operator
that stays in float there is computed by torch here, and agrees to float32 rounding.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.utils import _pytree as pytree

from trimtab.graph.layers import OPERATORS as LAYERS
from trimtab.quant.operators import AVERAGE_POOLS, MOVES, pads_with_zero, source
from trimtab.quant.ops import DEQUANTIZE, QUANTIZE

aten = torch.ops.aten

_ADDITIONS: set[object] = {aten.add.Tensor, aten.add_.Tensor}
_MULTIPLICATIONS: set[object] = {aten.mul.Tensor, aten.mul_.Tensor}
_PADS: set[object] = {aten.pad.default, aten.constant_pad_nd.default}


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
    """A kernel's result before it is written: `write(scale, zero_point)` gives unclamped codes, `read()` floats."""

    write: Callable[[Tensor, Tensor], Tensor]
    read: Callable[[], Tensor]


class IntegerSimulation(Interpreter):
    """Runs a folded graph in integers wherever the runtime does: `IntegerSimulation(folded)(*inputs)`."""

    def __init__(self, folded: GraphModule) -> None:
        super().__init__(folded)
        self._names = [node.target for node in folded.graph.nodes if node.op == "placeholder"]

    @torch.no_grad()
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the folded module itself would give for these inputs: by position, or all by keyword."""
        leaves = [kwargs[str(name)] for name in self._names] if kwargs else pytree.tree_leaves(args)
        outputs = self.run(*leaves, enable_io_processing=False)
        return self.module.graph.process_outputs(outputs)  # type: ignore[union-attr, operator]

    def run_node(self, n: Node) -> Any:
        """One node, on codes where there are any."""
        if n.op == "output":
            return torch.fx.node.map_arg(n.args[0], lambda node: _floats(self.env[node]))
        if n.op != "call_function":
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n.target == QUANTIZE:
            return _quantize(*args)
        if n.target == DEQUANTIZE:
            if isinstance(args[0], Tensor) and (args[1].dim() == 2 or args[0].dtype == torch.int16):
                return n.target(*args)  # a weight for which there is no integer kernel
            codes = args[0].codes if isinstance(args[0], Codes) else args[0].float()
            return Codes(codes, args[1], args[2].float())
        result = self._on_codes(n, args) if not kwargs else None
        if result is not None:
            return result
        return n.target(*map(_floats_in, args), **{key: _floats_in(value) for key, value in kwargs.items()})  # type: ignore[operator]

    def _on_codes(self, n: Node, args: Any) -> Codes | Pending | None:
        """The result on codes, or None where the runtime has no such kernel."""
        if n.target == aten.cat.default and all(isinstance(part, Codes) for part in args[0]):
            return _concatenate(*args)
        if not isinstance(args[0], Codes):
            return None
        if n.target in LAYERS and isinstance(args[1], Codes):
            return self._layer(n, *args)
        if n.target in _ADDITIONS and isinstance(args[1], Codes):
            return _add(*args)
        if n.target in _MULTIPLICATIONS and isinstance(args[1], Codes):
            return _multiply(*args)
        if n.target == aten.mean.dim and _over_the_map(*args):
            return _average(args[0])
        if n.target in AVERAGE_POOLS:
            return _average_pool(n, *args)
        if n.target in MOVES and pads_with_zero(n):
            return _move(n, *args)
        if n.target == aten.clamp.default:
            return Codes(args[0].codes.clamp(*args[1:]), args[0].scale, args[0].zero_point)
        return None

    def _layer(self, n: Node, x: Codes, weight: Codes, bias: Tensor, *rest: Any) -> Pending:
        assert callable(n.target)
        step = x.scale * weight.scale
        shape = (1, -1, *(1,) * (weight.codes.dim() - 2))
        if _has_dynamic_range(n.args[0]):
            return _dynamic_linear(x, weight, bias, step)
        bias_codes = _bias_codes(n, bias, step)
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


def _has_dynamic_range(value: Any) -> bool:
    """Whether the scale of a layer's input is found at run time."""
    value = source(value)
    return value.target == DEQUANTIZE and value.args[1].op != "get_attr"


def _dynamic_linear(x: Codes, weight: Codes, bias: Tensor, step: Tensor) -> Pending:
    """The kernel multiplies integers, and adds the bias in float."""
    total = F.linear(x.centred().double(), weight.codes.double()).float() * step + bias
    return Pending(write=lambda scale, zero: (total / scale).round() + zero, read=lambda: total)


def _bias_codes(n: Node, bias: Tensor, step: Tensor) -> Tensor:
    """A convolution's float bias is divided by the runtime, in float32; a linear layer's is int32 in the file."""
    return (bias / step).round() if LAYERS[n.target] == "convolution" else (bias.double() / step.double()).round()


def _quantize(x: Any, scale: Tensor, zero_point: Tensor) -> Codes:
    limits = torch.iinfo(zero_point.dtype)
    zero = zero_point.float()
    if isinstance(x, Codes):
        x = x.values()
    codes = x.write(scale, zero) if isinstance(x, Pending) else (x / scale).round() + zero
    return Codes(codes.clamp(limits.min, limits.max), scale, zero)


def _add(a: Codes, b: Codes) -> Pending:
    def write(scale: Tensor, zero: Tensor) -> Tensor:
        # The kernel's order of roundings; another order differs in some sums that lie on a tie.
        ra, rb = a.scale / scale, b.scale / scale
        offset = zero - fused(ra, a.zero_point, rb * b.zero_point)
        return fused(ra, a.codes, fused(rb, b.codes, offset)).round()

    return Pending(write=write, read=lambda: a.values() + b.values())


def _multiply(a: Codes, b: Codes) -> Pending:
    """The kernel adds the zero point before it rounds."""
    product = a.centred() * b.centred()
    return Pending(
        write=lambda scale, zero: (product * (a.scale * b.scale / scale) + zero).round(),
        read=lambda: a.values() * b.values(),
    )


def fused(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a·b + c, rounded to float32 once: the product of two float32 is exact in float64."""
    return (a.double() * b.double() + c.double()).float()


def _over_the_map(x: Codes, dims: Any = None, keepdim: bool = False, *_: Any) -> bool:
    rank = x.codes.dim()
    return keepdim and sorted(dim % rank for dim in dims or ()) == list(range(2, rank))


def _average(x: Codes) -> Pending:
    spatial = tuple(range(2, x.codes.dim()))
    total = x.centred().double().sum(spatial, keepdim=True).float()
    count = float(x.codes[0, 0].numel())
    return Pending(
        write=lambda scale, zero: (total * (x.scale / (scale * count))).round() + zero,
        read=lambda: x.values().mean(spatial, keepdim=True),
    )


def _average_pool(
    n: Node, x: Codes, window: list[int], stride: list[int], padding: list[int], ceil_mode: bool, count_padding: bool
) -> Pending:
    """The kernel adds floats one after the other, and adds the zero point before it rounds."""
    maps = x.codes.shape[2:], n.meta["val"].shape[2:]
    outside = [
        ((after - 1) * step + side - before - pad, pad)
        for before, after, side, step, pad in zip(*maps, window, stride, padding, strict=True)
    ]
    edges = [side for right, left in reversed(outside) for side in (left, max(right, 0))]

    def summed(values: Tensor) -> Tensor:
        padded = F.pad(values, edges)
        for dim, (side, step) in enumerate(zip(window, stride, strict=True), start=2):
            padded = padded.unfold(dim, side, step)
        first, *others = padded.flatten(-len(window)).unbind(-1)
        for term in others:
            first = first + term
        return first

    def write(scale: Tensor, zero: Tensor) -> Tensor:
        count = math.prod(window) if count_padding else summed(torch.ones_like(x.codes))
        return (summed(x.values()) / count / scale + zero).round()

    assert callable(n.target)
    return Pending(write=write, read=lambda: n.target(x.values(), *n.args[1:]))  # type: ignore[operator]


def _concatenate(parts: list[Codes], dim: int = 0) -> Codes | None:
    first = parts[0]
    if all(torch.equal(p.scale, first.scale) and torch.equal(p.zero_point, first.zero_point) for p in parts):
        return Codes(torch.cat([p.codes for p in parts], dim), first.scale, first.zero_point)
    return None  # the kernel's lookup tables are what dequantizing and quantizing give


def _move(n: Node, x: Codes, *rest: Any) -> Codes:
    assert callable(n.target)
    if n.target in _PADS:
        codes = aten.constant_pad_nd.default(x.codes, rest[0], float(x.zero_point))
    else:
        codes = n.target(x.codes, *rest)
    return Codes(codes, x.scale, x.zero_point)


def _floats(value: Any) -> Any:
    if isinstance(value, Codes):
        return value.values()
    return value.read() if isinstance(value, Pending) else value


def _floats_in(argument: Any) -> Any:
    if isinstance(argument, (list, tuple)):
        return type(argument)(map(_floats_in, argument))
    return _floats(argument)
