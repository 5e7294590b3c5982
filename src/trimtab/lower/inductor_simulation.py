"""The integer simulation as oneDNN's kernels and the compiler's own compute: where they round otherwise."""

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from trimtab.graph.layers import OPERATORS as LAYERS
from trimtab.quant.integer import Codes, IntegerSimulation, Pending
from trimtab.quant.operators import MOVES
from trimtab.quant.ops import QUANTIZE

aten = torch.ops.aten


class InductorSimulation(IntegerSimulation):
    """Runs a folded graph on codes as the compiled file does.

    A layer multiplies its accumulator by the scale of its input, then by those of its weight, adds the bias in float,
    and adds the zero point before it rounds. Kernels that the compiler writes decode, compute and round in float32.
    """

    def run_node(self, n: Node) -> Any:
        """Floats are multiplied by the reciprocal of the scale, and the zero point is added after they are rounded."""
        if n.target == QUANTIZE:
            x, scale, zero = self.fetch_args_kwargs_from_env(n)[0]
            if isinstance(x, (Tensor, Codes)):
                limits = torch.iinfo(zero.dtype)
                values = x.values() if isinstance(x, Codes) else x
                codes = (values * _reciprocal(scale)).round() + zero
                return Codes(codes.clamp(limits.min, limits.max), scale, zero.float())
        return super().run_node(n)

    def _on_codes(self, n: Node, args: Any) -> Codes | Pending | None:
        on_codes = n.target in LAYERS or n.target in MOVES or n.target in {aten.clamp.default, aten.cat.default}
        return super()._on_codes(n, args) if on_codes else None

    def _layer(self, n: Node, x: Codes, weight: Codes, bias: Tensor, *rest: Any) -> Pending:
        one, shape = torch.ones(()), (1, -1, *(1,) * (weight.codes.dim() - 2))
        unscaled = [Codes(of.codes, one.expand_as(of.scale), of.zero_point) for of in (x, weight)]
        products = super()._layer(n, unscaled[0], unscaled[1], torch.zeros_like(bias), *rest).read()
        values = products * x.scale * weight.scale.view(shape) + bias.view(shape)
        return Pending(
            write=lambda scale, zero: (values * _reciprocal(scale) + zero).round(),
            read=lambda: values,
        )


def _reciprocal(scale: Tensor) -> Tensor:
    return (1 / scale.double()).float()
