"""Fake-quantization of weights: a module that rounds to any grid in float, straight through, with learned scales."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trimtab.errors import ConfigError, NumericsError
from trimtab.plan import PER_CHANNEL, PER_NETWORK, PER_TENSOR
from trimtab.quant.activations import SMALLEST_SCALE
from trimtab.quant.grids import Fit, Grid, TrainedGrid
from trimtab.quant.grids.search import fit_weights
from trimtab.quant.rounding import round_to_grid

Granularity = tuple[int, int] | str

_END = 1 + 1e-6
"""Where a grid ends for gradients: the weight that its scale comes from is inside, however the quotient is rounded."""


class WeightFakeQuantize(nn.Module):
    """Rounds a weight, seen as rows that share a scale: an output channel, a group of inputs of one, or all of it.

    `scale` is [rows], for groups [out, groups]. `table` is there for a grid whose table is trained: its integers as
    fractions of the largest.
    Raises: NumericsError for a weight that is not finite; ConfigError for blocks that do not divide it.
    """

    elementwise = True

    scale: nn.Parameter
    zero_point: Tensor
    table: nn.Parameter | None

    def __init__(
        self, grid: Grid, weight: Tensor, granularity: Granularity = PER_CHANNEL, where: str = "weight"
    ) -> None:
        super().__init__()
        self.grid, self.granularity = grid, granularity
        self.by_row = () if granularity in {PER_TENSOR, PER_NETWORK} else ("scale", "zero_point")
        """What a cut of dimension 0 cuts too."""
        self.by_block = self.group is not None
        """Whether inputs share a scale by their position, so that none of them can be cut."""
        _check(weight, granularity, self.group, where)
        self._keep(fit_weights(grid, self.rows(weight.detach().float())), len(weight))

    def forward(self, weight: Tensor) -> Tensor:
        if not self.grid.uniform:
            return _straight_through(self, self.rows(weight)).reshape(weight.shape)
        limits = self.grid.low, self.grid.high, self._damping(weight)
        if self.granularity == PER_CHANNEL:
            return torch._fake_quantize_learnable_per_channel_affine(weight, self.step(), self.zero_point, 0, *limits)
        if self.group is None:
            return round_to_grid(weight, self.step(), self.zero_point, *limits)
        scale, zero_point = self.step().flatten(), self.zero_point.flatten()
        rows = torch._fake_quantize_learnable_per_channel_affine(self.rows(weight), scale, zero_point, 0, *limits)
        return rows.reshape(weight.shape)

    @property
    def group(self) -> int | None:
        """How many inputs share a scale, if not all of a channel."""
        if self.granularity in {PER_TENSOR, PER_CHANNEL, PER_NETWORK}:
            return None
        return int(self.granularity[1])

    def rows(self, weight: Tensor) -> Tensor:
        """`weight` as [rows, n]: what is in a row shares a scale."""
        if self.granularity == PER_CHANNEL:
            return weight.flatten(1)
        return weight.reshape(1, -1) if self.group is None else weight.reshape(-1, self.group)

    def step(self) -> Tensor:
        """The scales as they are used, positive."""
        return self.scale.clamp(min=SMALLEST_SCALE)

    def fit(self) -> Fit:
        """What the grid needs to know, for the rows of a weight."""
        table = None if self.table is None else self._table().detach().round()
        return Fit(self.step().detach().flatten(), self.zero_point.flatten(), table)

    def codes(self, weight: Tensor) -> Tensor:
        """The grid's codes of `weight`, in its shape, as float."""
        return self.grid.encode(self.rows(weight.detach().float()), self.fit()).reshape(weight.shape)

    def integers(self, weight: Tensor) -> Tensor:
        """The integers less zero points that `weight` is rounded to, in its shape, as float: `forward` / scale."""
        with torch.no_grad():
            rows = self.rows(self(weight).float())
        return rows.div_(self.fit().scale[:, None]).round_().reshape(weight.shape)  # in place: weights may be large

    def _keep(self, fit: Fit, channels: int) -> None:
        shape = (channels, -1) if self.group is not None else (-1,)
        self.scale = nn.Parameter(fit.scale.reshape(shape))
        self.register_buffer("zero_point", fit.zero_point.reshape(shape))
        self.table = None if fit.table is None else nn.Parameter(fit.table / self.grid.high)

    def _table(self) -> Tensor:
        """The trained table, in integers that are not yet rounded."""
        assert isinstance(self.grid, TrainedGrid)
        assert self.table is not None
        return self.grid.tied(self.table * self.grid.high)

    def _damping(self, weight: Tensor) -> float:
        """Of the scale's gradient: 1 / sqrt(weights that share a scale · largest integer), LSQ section 2.2."""
        return float((weight.numel() / self.scale.numel() * self.grid.high) ** -0.5)


def _straight_through(rounding: WeightFakeQuantize, rows: Tensor) -> Tensor:
    """The values that `rows` are rounded to, with the gradients of LSQ.

    To a row's entries the gradient passes where they lie inside the grid (everywhere if it does not saturate). To the
    scale it is integer − position inside, integer outside. To an entry of a trained table it is the sum over what is
    rounded to it, times the scale, damped by the root of the number of weights for one entry.
    """
    grid, fit = rounding.grid, rounding.fit()
    scale = fit.scale[:, None]
    codes = grid.encode(rows.detach(), fit)
    integers = grid.integers(codes, fit)
    positions = rows.detach() / scale
    outside = (positions < _END * grid.low) | (positions > _END * grid.high)
    slope = torch.where(outside, integers, integers - positions)
    passing = rows.masked_fill(outside, 0) if grid.saturates else rows
    path = passing + rounding.step().flatten()[:, None] * slope * rounding._damping(rows)
    if rounding.table is not None:
        path = path + scale * rounding._table()[codes.long()] * (rows.numel() / len(rounding.table)) ** -0.5
    return integers * scale + (path - path.detach())


def share_scale(modules: Sequence[WeightFakeQuantize], weights: Sequence[Tensor]) -> None:
    """Fit one scale (and table) to all `weights` together; the modules, of one grid, hold the same parameter."""
    rows = torch.cat([weight.detach().float().flatten() for weight in weights])
    first = modules[0]
    first._keep(fit_weights(first.grid, rows[None]), 1)
    for module in modules[1:]:
        module.scale, module.zero_point, module.table = first.scale, first.zero_point, first.table


def _check(weight: Tensor, granularity: Granularity, group: int | None, where: str) -> None:
    if not bool(weight.isfinite().all()):
        raise NumericsError(f"{where}: weights must be finite, got NaN or infinity; take a checkpoint without them")
    if group is not None and granularity[0] != 1:
        raise ConfigError(
            f"{where}: a block of weights lies in one output channel, got {granularity}; use (1, {group})"
        )
    inputs = weight[0].numel()
    if group is not None and inputs % group:
        raise ConfigError(f"{where}: a group of {group} must divide the {inputs} inputs of a channel; choose a divisor")
