"""A layer with the batch norm behind it as one affine map, and weights of that map written back into both."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from trimtab.graph.analysis import attribute
from trimtab.graph.values import bind
from trimtab.recover.outlets import Outlet
from trimtab.solve import Moments

_SMALLEST_GAIN = 1e-8
"""A channel that batch norm multiplies with less is constant: it is solved as if there were no norm."""


class Affine:
    """z = gain · (weight x + bias) + shift of one layer, by output channel; in float64, on the CPU.

    Rows of weights are [groups, outputs a group, inputs a group], those of the layer alone: without the gain.
    """

    def __init__(self, module: GraphModule, outlet: Outlet, parameter: nn.Parameter) -> None:
        self.parameter = parameter
        given = bind(outlet.node)
        self.groups = int(given.get("groups", 1))
        self.bias: Tensor | None = _tensor(module, given["bias"])
        self.norm = None if outlet.norm is None else {name: _tensor(module, a) for name, a in bind(outlet.norm).items()}
        self.gain = torch.ones(len(parameter), dtype=torch.float64)
        if self.norm:
            spread = (_exact(self.norm["running_var"]) + self.norm["eps"]).sqrt()
            gamma = _exact(self.norm["weight"]) if self.norm["weight"] is not None else self.gain
            self.gain = gamma / spread
        self.gain = torch.where(self.gain.abs() > _SMALLEST_GAIN, self.gain, 1.0)

    @property
    def constant(self) -> bool:
        """Whether the layer can add any number to each of its channels."""
        return self.norm is not None or self.bias is not None

    @property
    def tensors(self) -> list[Tensor]:
        """All that `write` and `set_constant` may change."""
        norm = self.norm or {}
        return [value for value in (self.parameter, self.bias, *norm.values()) if isinstance(value, Tensor)]

    def weight(self, other: Tensor | None = None) -> Tensor:
        """The layer's weight, or another in its place, as rows."""
        return self.by_group(_exact(self.parameter if other is None else other).flatten(1))

    def by_group(self, rows: Tensor) -> Tensor:
        """Rows of output channels, apart by the groups of the convolution."""
        return rows.reshape(self.groups, len(rows) // self.groups, *rows.shape[1:])

    def before_gain(self, moments: Moments) -> Moments:
        """Moments whose targets are the layer's own results."""
        gain = self.by_group(self.gain)
        return Moments(
            moments.count, moments.mean_x, moments.mean_y / gain, moments.gram, moments.cross / gain[..., None]
        )

    @torch.no_grad()
    def write(self, rows: Tensor) -> None:
        """Set the weight."""
        self.parameter.copy_(rows.reshape(self.parameter.shape))

    @torch.no_grad()
    def set_constant(self, rows: Tensor, moments: Moments) -> None:
        """The constant with which the means are those of the targets, for the weight `rows` that is computed with.

        `moments` are those before the gain. Batch norm's statistics become those of what it now reads, so that it
        computes the same in training.
        """
        mean = (rows @ moments.mean_x[:, :, None]).flatten()
        away = moments.mean_y.flatten() - mean
        if self.norm is None:
            if self.bias is not None:
                self.bias.copy_(away)
            return
        mean = mean + (0.0 if self.bias is None else _exact(self.bias))
        gamma, beta = self.norm["weight"], self.norm["bias"]
        if gamma is None or beta is None:
            shift = 0.0 if beta is None else _exact(beta)
            self.norm["running_mean"].copy_(mean + shift / self.gain - moments.mean_y.flatten())
            return
        variance = ((rows @ moments.gram) * rows).sum(-1).flatten()
        self.norm["running_mean"].copy_(mean)
        self.norm["running_var"].copy_(variance)
        gamma.copy_(self.gain * (variance + self.norm["eps"]).sqrt())
        beta.copy_(self.gain * moments.mean_y.flatten())


def _exact(values: Tensor) -> Tensor:
    return values.detach().cpu().double()


def _tensor(module: GraphModule, value: object) -> Any:
    """The tensor that an argument reads, or the argument itself."""
    return attribute(module, str(value.target)) if isinstance(value, Node) and value.op == "get_attr" else value
