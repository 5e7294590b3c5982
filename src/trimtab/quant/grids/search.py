"""The scale of least squared error, for weights in few bits."""

import torch
from torch import Tensor

from trimtab.quant.grids.contract import Fit, Grid

_ENOUGH_BITS = 8  # from here on the largest magnitude is as good
_SHRINKAGES = [2 ** (-i / 3) for i in range(10)]
_REFITS = 3


def fit_weights(grid: Grid, values: Tensor) -> Fit:
    """`grid.fit`, then of each row the shrunk scale with the least squared error, refitted to its own integers.

    With few bits, clipping the few largest weights costs less than a wide step for all others. Never worse in squares
    than `grid.fit`; the table, if there is one, stays. Fits that are no maximum, or have a table, are not shrunk.
    """
    fit = grid.fit(values)
    if grid.bits >= _ENOUGH_BITS:
        return fit
    unit = values.abs().amax(1).clamp(min=torch.finfo(values.dtype).tiny)
    rows, scale = values / unit[:, None], fit.scale / unit
    best, least = scale, torch.full_like(scale, torch.inf)
    maximum = grid.saturates and fit.table is None
    for shrinkage in _SHRINKAGES if maximum else _SHRINKAGES[:1]:
        best, least = _better(grid, rows, fit._replace(scale=scale * shrinkage), best, least)
    for _ in range(_REFITS):
        whole = centred(grid, rows, fit._replace(scale=best))
        refitted = (rows * whole).sum(1) / (whole * whole).sum(1)
        refitted = torch.where(refitted.isfinite() & (refitted > 0), refitted, best)
        best, least = _better(grid, rows, fit._replace(scale=refitted), best, least)
    return fit._replace(scale=torch.where(best == scale, fit.scale, best * unit))


def centred(grid: Grid, rows: Tensor, fit: Fit) -> Tensor:
    """The integers nearest to `rows` [rows, n], less the zero point."""
    return grid.integers(grid.encode(rows, fit), fit) - fit.zero_point[:, None]


def _better(grid: Grid, rows: Tensor, fit: Fit, best: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row the scale with the smaller squared error, and that error."""
    error = (centred(grid, rows, fit) * fit.scale[:, None] - rows).square().sum(1)
    return torch.where(error < least, fit.scale, best), torch.minimum(error, least)
