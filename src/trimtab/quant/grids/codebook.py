"""Codebook grid: the integers are those that fit the data best, and can be trained."""

from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.errors import ConfigError
from trimtab.quant.grids.contract import Fit
from trimtab.quant.grids.levels import LARGEST, Levels, unshifted


@dataclass(frozen=True)
class Codebook(Levels):
    """`value = scale · table[code]`: zero and 2^(bits−1) − 1 magnitudes of at most 127, each with both signs.

    One table for all rows, one scale a row. The table has the least squared error of all tables of such integers.
    Source: Han et al. 2016, "Deep Compression: Compressing Deep Neural Networks with Pruning, Trained Quantization and
    Huffman Coding", section 3 (k-means of the weights, trained centroids).
    """

    bits: int = 4

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ConfigError(f"grid 'codebook': bits must be from 2 to 8, got {self.bits}")

    def fit(self, values: Tensor) -> Fit:
        """Scales [rows] that put each row's largest magnitude to 127, and the best table for all rows together."""
        fit = unshifted(values.abs().amax(1) / LARGEST)
        chosen = best_integers(values.abs() / fit.scale[:, None], 2 ** (self.bits - 1) - 1)
        magnitudes = torch.tensor(chosen, dtype=values.dtype, device=values.device)
        return fit._replace(table=torch.cat([-magnitudes.flip(0), magnitudes.new_zeros(1), magnitudes]))

    def tied(self, table: Tensor) -> Tensor:
        """Ascending, and every value with both signs."""
        return ((table - table.flip(0)) / 2).clamp(self.low, self.high).sort().values


def best_integers(sizes: Tensor, count: int) -> list[int]:
    """The `count` integers from 1 to 127 that, with zero, lie nearest to `sizes` (0 … 127) in squared error.

    Exact, by dynamic programming over the largest integer chosen: one-dimensional k-means has no better solution among
    integers. What two neighbours a < b share is cut at their middle, a multiple of a half, so that sums over bins of a
    half are enough.
    Source: Wu 1991, "Optimal Quantization by Matrix Searching", for k-means in one dimension.
    """
    edges = 2 * LARGEST + 1
    bins = (sizes.flatten().double() * 2).ceil().clamp(0, edges - 1).long()  # (e − 1)/2 < size <= e/2 is bin e
    powers = torch.stack([sizes.flatten().double() ** p for p in range(3)])
    sums = torch.zeros(3, edges, dtype=torch.float64, device=sizes.device).index_add_(1, bins, powers).cpu().cumsum(1)
    integer = torch.arange(LARGEST + 1, dtype=torch.float64)
    centred = sums[2] - 2 * integer[:, None] * sums[1] + integer[:, None] ** 2 * sums[0]  # [integer, up to edge]
    whole = torch.arange(LARGEST + 1)
    at = centred.gather(1, whole[:, None] + whole)  # up to the middle of two integers
    here = at.diagonal()  # up to the integer itself
    shared = at - here[:, None] + here - at.T
    shared = torch.where(whole[:, None] < whole, shared, torch.inf)
    above = centred[:, -1] - here
    loss, before = shared[0], []
    for _ in range(count - 1):
        loss, chosen = (loss[:, None] + shared).min(0)
        before.append(chosen)
    best = int((loss + above).argmin())
    found = [best]
    for chosen in reversed(before):
        found.append(int(chosen[found[-1]]))
    return sorted(found)
