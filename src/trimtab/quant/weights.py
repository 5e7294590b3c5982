"""Fake-quantization of weights: a module that rounds to a grid in float, straight through, with learned scales."""

import torch
from torch import Tensor, nn

from trimtab.quant.activations import SMALLEST_SCALE
from trimtab.quant.grids import Fit, Grid


class WeightFakeQuantize(nn.Module):
    """One scale an output channel (dimension 0) of a weight."""

    elementwise = True
    by_row = ("scale", "zero_point")  # what a cut of dimension 0 cuts too

    scale: Tensor
    zero_point: Tensor

    def __init__(self, grid: Grid, weight: Tensor) -> None:
        super().__init__()
        self.grid = grid
        fit = grid.fit(weight.detach().float().flatten(1))
        self.scale = nn.Parameter(fit.scale)
        self.register_buffer("zero_point", fit.zero_point)

    def forward(self, weight: Tensor) -> Tensor:
        return torch._fake_quantize_learnable_per_channel_affine(
            weight,
            self.step(),
            self.zero_point,
            0,
            self.grid.low,
            self.grid.high,
            (weight[0].numel() * self.grid.high) ** -0.5,
        )

    def step(self) -> Tensor:
        """The scales as they are used, positive."""
        return self.scale.clamp(min=SMALLEST_SCALE)

    def codes(self, weight: Tensor) -> Tensor:
        """Integer codes of `weight`, in its shape, as float."""
        rows = weight.detach().float().flatten(1)
        return self.grid.encode(rows, Fit(self.step().detach(), self.zero_point)).view_as(weight)
