"""A histogram whose bins are the leading bits of float32: one pass, whatever the range, in bounded memory.

A bin holds the numbers with the same sign, exponent and first 7 bits of the mantissa, so it is 1/128 to 1/256 of
its values wide wherever they lie: nobody has to know the range beforehand, and an outlier coarsens nothing. Counts are
integers, so that neither the order nor the size of the batches matters.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_DROPPED = 16  # mantissa bits that a bin does not tell apart
_MAGNITUDES = 1 << 15


@dataclass(frozen=True)
class Segments:
    """Bins that are not empty, in ascending order: their ends, low <= high, and how many values each holds (float64).

    Zeros have a bin of their own, with both ends 0. The outermost ends are the least and the largest value seen.
    """

    low: Tensor
    high: Tensor
    count: Tensor

    @property
    def total(self) -> Tensor:
        """How many values were seen."""
        return self.count.sum()

    def without_zeros(self) -> "Segments":
        """The others."""
        others = (self.low != 0) | (self.high != 0)
        return Segments(self.low[others], self.high[others], self.count[others])

    def below(self, t: Tensor) -> Tensor:
        """How many values are at most t, for each of `t`: within a segment in proportion, of a single value all."""
        i = torch.searchsorted(self.high, t).clamp(max=len(self.count) - 1)
        width = (self.high - self.low).clamp(min=torch.finfo(torch.float64).tiny)[i]
        share = ((t - self.low[i]) / width).clamp(0, 1).where(t < self.high[i], torch.ones_like(t))
        return self.count.cumsum(0)[i] - self.count[i] + share * self.count[i]


class Histogram:
    """Counts of values by sign and magnitude; half a megabyte."""

    def __init__(self) -> None:
        self._counts: Tensor | None = None
        self._low, self._high = torch.inf, -torch.inf

    def see(self, x: Tensor) -> None:
        """Count finite values."""
        x = x.detach().float().contiguous()
        patterns = (x.view(torch.int32).flatten() >> _DROPPED) & (2 * _MAGNITUDES - 1)
        counts = torch.bincount(patterns, minlength=2 * _MAGNITUDES)
        self._counts = counts if self._counts is None else self._counts + counts
        low, high = x.aminmax()
        self._low, self._high = min(self._low, float(low)), max(self._high, float(high))

    def segments(self) -> Segments:
        """What was seen so far, on the CPU."""
        assert self._counts is not None
        counts = self._counts.cpu().view(2, _MAGNITUDES)
        inner = _edges()
        outer = torch.cat([inner[1:], inner[-1:]])
        low = torch.cat([-outer.flip(0)[:-1], inner[:1], inner[1:]])
        high = torch.cat([-inner.flip(0)[:-1], inner[:1], outer[1:]])
        count = torch.cat([counts[1].flip(0)[:-1], counts[:, 0].sum(0, keepdim=True), counts[0][1:]])
        filled = count > 0
        low, high = (end[filled].clamp(self._low, self._high) for end in (low, high))
        return Segments(low, high, count[filled].double())


def _edges() -> Tensor:
    """The least magnitude of every bin; the first bin, of numbers below 1e-40, counts as zero."""
    edges = (torch.arange(_MAGNITUDES, dtype=torch.int32) << _DROPPED).view(torch.float32).double()
    return edges.nan_to_num(torch.finfo(torch.float32).max, torch.finfo(torch.float32).max)
