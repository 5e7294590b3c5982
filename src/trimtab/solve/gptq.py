"""Rounding column by column, the error of each made up for by the columns that are still to come."""

from collections.abc import Callable

import torch
from torch import Tensor

from trimtab.solve.least_squares import damped

Nearest = Callable[[Tensor, Tensor], Tensor]
"""`nearest(values [groups, m, k], columns [groups, k])`: the nearest values that these entries may take."""

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
    upper = _inverse_factor(_reordered(damped(gram, damping), order))
    left = weight.gather(2, order[:, None, :].expand_as(weight)).clone()
    size = weight.shape[2]
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        errors = torch.empty_like(left[:, :, start:stop])
        for at in range(start, stop):
            column = left[:, :, at : at + 1]
            rounded = nearest(column, order[:, at : at + 1])
            error = (column - rounded) / upper[:, at : at + 1, at : at + 1]
            left[:, :, at : at + 1] = rounded
            left[:, :, at + 1 : stop] -= error @ upper[:, at : at + 1, at + 1 : stop]
            errors[:, :, at - start : at - start + 1] = error
        left[:, :, stop:] -= errors @ upper[:, start:stop, stop:]
    return torch.empty_like(left).scatter_(2, order[:, None, :].expand_as(left), left)


def _reordered(gram: Tensor, order: Tensor) -> Tensor:
    rows = gram.gather(1, order[:, :, None].expand_as(gram))
    return rows.gather(2, order[:, None, :].expand_as(gram))


def _inverse_factor(gram: Tensor) -> Tensor:
    """The upper triangular U with Uᵀ U = gram⁻¹."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    return torch.linalg.cholesky(inverse, upper=True)
