"""The range with the least squared error of rounding and clipping together."""

import torch
from torch import Tensor

from trimtab.quant.grids import Fit, UniformGrid
from trimtab.quant.ranges.contract import Range
from trimtab.quant.ranges.histogram import Histogram, Segments

_COARSE = 0.87 ** torch.arange(80, dtype=torch.float64)  # down to 1e-5 of the range seen
_AROUND = torch.cartesian_prod(*[1.05 ** torch.arange(-10, 11, dtype=torch.float64)] * 2)
_FINE = 1.008 ** torch.arange(-12, 13, dtype=torch.float64)


class MeanSquaredError(Histogram):
    """The [low, high] that minimizes the mean of (x − x̂)² over all values seen, for the grid that will round them.

    Values count as spread evenly within the bins of the histogram, for which the error has a closed form. The search
    shrinks both ends together, then each alone, then moves both a little in all combinations, then in small steps; the
    order of the batches does not matter. An
    outlier that is far enough out wins: clipping it would cost more than all the others together.
    Source: Choi et al. 2018, "Bridging the Accuracy Gap for 2-bit Quantized Neural Networks" (SAWB), eq. 1, and Nagel
    et al. 2021, "A White Paper on Neural Network Quantization", eq. 8.
    """

    def range(self, grid: UniformGrid) -> Range:
        """The best of the search."""
        segments = self.segments()
        ends = torch.stack([segments.low[0].clamp(max=0), segments.high[-1].clamp(min=0)])
        ends = _best(segments, grid, ends * _COARSE[:, None])
        moving = [[0, 1]] if grid.signed else [[side] for side in ends.nonzero().flatten().tolist()]
        ends = _each(segments, grid, ends, moving, _COARSE)
        if len(moving) > 1:
            ends = _best(segments, grid, ends * _AROUND)
        for _ in range(2):
            ends = _each(segments, grid, ends, moving, _FINE)
        return Range(ends[:1].float(), ends[1:].float())


def _each(segments: Segments, grid: UniformGrid, ends: Tensor, moving: list[list[int]], factors: Tensor) -> Tensor:
    """The best after each of the sides that are `moving` together was multiplied by the best of `factors`. [2]"""
    for sides in moving:
        candidates = ends.repeat(len(factors), 1)
        candidates[:, sides] *= factors[:, None]
        ends = _best(segments, grid, candidates)
    return ends


def _best(segments: Segments, grid: UniformGrid, candidates: Tensor) -> Tensor:
    """Of `candidates` [n, 2] the first with the least error. [2]"""
    fit = grid.fit_range(candidates[:, 0], candidates[:, 1])
    return candidates[squared_errors(segments, grid, fit).argmin()]


def squared_errors(segments: Segments, grid: UniformGrid, fit: Fit) -> Tensor:
    """The sum of squared errors on `segments` for every row of `fit`. [rows]

    With u = x / scale and q(u) the nearest integer on the grid, ∫ (u − q)² du = q/12 + (u − q)³/3.
    """
    scale, lowest, highest = (
        term[:, None] for term in (fit.scale, grid.low - fit.zero_point, grid.high - fit.zero_point)
    )

    def integral(x: Tensor) -> Tensor:
        u = x / scale
        q = torch.minimum(torch.maximum(u.round(), lowest), highest)
        return q / 12 + (u - q) ** 3 / 3

    width = (segments.high - segments.low) / scale
    points = width == 0
    at_a_point = _squared(segments.high / scale, lowest, highest)
    spread = (integral(segments.high) - integral(segments.low)) / torch.where(points, torch.ones_like(width), width)
    return (torch.where(points, at_a_point, spread) * segments.count).sum(1) * fit.scale.square()


def _squared(u: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
    return (u - torch.minimum(torch.maximum(u.round(), lowest), highest)).square()
