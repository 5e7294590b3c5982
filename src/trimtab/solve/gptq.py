"""Rounding, or thinning, column by column, the error of each made up for by the columns that are still to come."""

from collections.abc import Callable

import torch
from torch import Tensor

from trimtab.solve.least_squares import damped

Nearest = Callable[[Tensor, Tensor], Tensor]
"""`nearest(values [groups, m, k], columns [groups, m or 1, k])`: the nearest values that these entries may take."""

BLOCK = 128
"""Columns whose corrections are applied one by one; what lies behind the block is corrected once for all of them."""


def gptq(weight: Tensor, gram: Tensor, nearest: Nearest, damping: float = 0.0) -> Tensor:
    """Values that a grid can hold, near `weight` [groups, m, n] in the metric of `gram` [groups, n, n].

    Columns are rounded in the order of falling diagonal of `gram` ("activation order"), and each one's error goes to
    the columns left, as the inverse of `gram` says; `damping`, a share of its mean diagonal, makes sure there is one.
    Source: Frantar et al. 2023, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
    section 3.
    """
    order = gram.diagonal(dim1=-2, dim2=-1).argsort(dim=-1, descending=True)
    upper = inverse_factor(_reordered(damped(gram, damping), order))
    left = weight.gather(2, order[:, None, :].expand_as(weight)).clone()
    _sweep(left, upper, lambda column, at: nearest(column, order[:, None, at : at + 1]))
    return torch.empty_like(left).scatter_(2, order[:, None, :].expand_as(left), left)


def sparsegpt(
    weight: Tensor,
    gram: Tensor,
    fraction: float,
    quota: tuple[int, int] | None = None,
    nearest: Nearest | None = None,
    damping: float = 0.01,
) -> Tensor:
    """`weight` [groups, m, n] with a `fraction` of zeros, or of every `of` consecutive columns `kept`: `quota`.

    Of each 128 columns (each `of`) the entries of least w² / [U]ⱼⱼ², Uᵀ U = gram⁻¹, are dropped when the sweep comes to
    them, over all rows. With `nearest` those that stay are rounded in the same sweep.
    Source: Frantar & Alistarh 2023, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot",
    algorithm 1 and section 3.5.
    """
    upper = inverse_factor(damped(gram, damping))
    left, gone = weight.clone(), torch.zeros_like(weight, dtype=torch.bool)
    width = quota[1] if quota else BLOCK

    def settled(column: Tensor, at: int) -> Tensor:
        if at % width == 0:
            spread = upper.diagonal(dim1=-2, dim2=-1)[:, None, at : at + width]
            gone[:, :, at : at + width] = _least((left[:, :, at : at + width] / spread).square(), fraction, quota)
        stays = column if nearest is None else nearest(column, torch.full((len(weight), 1, 1), at))
        return stays.masked_fill(gone[:, :, at : at + 1], 0.0)

    _sweep(left, upper, settled, BLOCK // width * width)
    return left


def _sweep(left: Tensor, upper: Tensor, settled: Callable[[Tensor, int], Tensor], block: int = BLOCK) -> None:
    """Give each column its value, in order and in place, and what comes after it the corrections."""
    size = left.shape[2]
    for start in range(0, size, block):
        stop = min(start + block, size)
        errors = torch.empty_like(left[:, :, start:stop])
        for at in range(start, stop):
            column = left[:, :, at : at + 1]
            rounded = settled(column, at)
            error = (column - rounded) / upper[:, at : at + 1, at : at + 1]
            left[:, :, at : at + 1] = rounded
            left[:, :, at + 1 : stop] -= error @ upper[:, at : at + 1, at + 1 : stop]
            errors[:, :, at - start : at - start + 1] = error
        left[:, :, stop:] -= errors @ upper[:, start:stop, stop:]


def _least(scores: Tensor, fraction: float, quota: tuple[int, int] | None) -> Tensor:
    """Where scores are among the least: of each row so many, or a share of all."""
    number = quota[1] - quota[0] if quota else round(fraction * scores[0].numel())
    values = scores if quota else scores.flatten(1)
    lowest = values.argsort(dim=-1)[..., :number]
    return torch.zeros_like(values, dtype=torch.bool).scatter_(-1, lowest, True).view_as(scores)


def _reordered(gram: Tensor, order: Tensor) -> Tensor:
    rows = gram.gather(1, order[:, :, None].expand_as(gram))
    return rows.gather(2, order[:, None, :].expand_as(gram))


def inverse_factor(gram: Tensor) -> Tensor:
    """The upper triangular U with Uᵀ U = gram⁻¹."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    return torch.linalg.cholesky(inverse, upper=True)
