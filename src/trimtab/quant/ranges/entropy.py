"""The range that loses least information when it is clipped and rounded: calibration as TensorRT does it."""

import torch
from torch import Tensor

from trimtab.quant.grids import UniformGrid
from trimtab.quant.ranges.contract import Range
from trimtab.quant.ranges.histogram import Histogram, Segments

_BINS = 2048
_CANDIDATES = 192
_CROWDED = _BINS // 64


class Entropy(Histogram):
    """The threshold T on |x| for which the rounded distribution diverges least from the seen one (Kullback–Leibler).

    P is the histogram of |x| up to T with all that is beyond put into its last bin. Q is the same histogram without
    that, merged into as many levels as the grid has in [0, T], each spread evenly over its bins that are not empty.
    T minimizes Σ P · log(P / Q).

    Exact zeros are left out: every grid holds them. There are 2048 bins up to the largest magnitude; as long as half
    of the values would crowd in the lowest 32 of them, for an outlier, the histogram ends at half of that. A grid with
    as many levels as bins gets the whole of it. The order of the batches does not matter.
    Source: Migacz 2017, "8-bit Inference with TensorRT" (NVIDIA GTC), the algorithm on slides 36 to 39; here about 190
    thresholds in equal ratios are tried, instead of every bin.
    """

    def range(self, grid: UniformGrid) -> Range:
        """[−T, T], but no wider than what was seen."""
        segments = self.segments()
        low, high = segments.low[:1], segments.high[-1:]
        levels = grid.high - grid.low + 1
        if float(low) < 0:
            levels = max(2, levels // 2)
        threshold = _threshold(segments, levels)
        return Range(low.clamp(min=-threshold).float(), high.clamp(max=threshold).float())


def _threshold(segments: Segments, levels: int) -> float:
    top = max(abs(float(segments.low[0])), abs(float(segments.high[-1])))
    apart = segments.without_zeros()
    if levels >= _BINS or not len(apart.count):
        return top
    counts, beyond = _counts(apart, top), 0.0
    while counts[:_CROWDED].sum() > apart.total / 2:
        top /= 2
        counts = _counts(apart, top)
        beyond = float(apart.total - counts.sum())
    ratios = torch.logspace(0, 1, _CANDIDATES, base=_BINS / levels, dtype=torch.float64)
    candidates = (levels * ratios).round().int().unique().tolist()
    best = min(candidates, key=lambda bins: (_divergence(counts, beyond, bins, levels), -bins))
    return top * best / _BINS


def _counts(segments: Segments, top: float) -> Tensor:
    """How many magnitudes lie in each of equal bins of [0, top]."""
    edges = torch.linspace(0, top, _BINS + 1, dtype=torch.float64)
    return (segments.below(edges) - segments.below(-edges)).diff().clamp(min=0)


def _divergence(counts: Tensor, beyond: float, bins: int, levels: int) -> float:
    """Σ P log(P / Q) in nats, when the first `bins` are kept; infinite where Q is empty and P is not."""
    kept = counts[:bins]
    seen = kept.clone()
    seen[-1] += beyond + counts[bins:].sum()
    level = torch.arange(bins) * levels // bins
    filled = (kept > 0).double()
    mass, cells = (torch.zeros(levels, dtype=torch.float64).index_add_(0, level, part) for part in (kept, filled))
    rounded = (mass / cells.clamp(min=1))[level] * filled
    there = seen > 0
    p, q = seen[there] / seen.sum(), rounded[there] / rounded.sum().clamp(min=1e-300)
    return float((p * (p / q).log()).sum())
