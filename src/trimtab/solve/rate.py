"""What an entropy coder spends on integers, and how much an error in one entry costs when others make up for it."""

import torch
from torch import Tensor

from trimtab.solve.gptq import inverse_factor


def magnitude_bits(integers: Tensor, high: int) -> Tensor:
    """Bits of an integer by its magnitude, [high + 1], by how often each of them is among `integers`.

    −log₂ of the share, every magnitude counted once more than it occurs and halved for the sign. A larger one never
    counts as cheaper.
    """
    counts = torch.bincount(integers.abs().long().flatten(), minlength=high + 1).double() + 1
    total = counts.sum()
    counts[1:] /= 2
    return torch.log2(total / counts).cummax(0).values


def coded_bits(integers: Tensor) -> float:
    """Bits of all integers for a coder that knows how often each occurs: n times their entropy."""
    counts = torch.unique(integers, return_counts=True)[1].double()
    return float((counts * torch.log2(integers.numel() / counts)).sum())


def compensated_curvature(gram: Tensor) -> Tensor:
    """By how much mean ‖y − Wx‖² grows with the squared error of an entry whose later columns make up for it.

    [groups, 1, n], in the order of falling diagonal in which `gptq` takes columns: 1 / [U]ⱼⱼ², Uᵀ U = gram⁻¹.
    """
    order = gram.diagonal(dim1=-2, dim2=-1).argsort(dim=-1, descending=True)
    rows = gram.gather(1, order[:, :, None].expand_as(gram))
    upper = inverse_factor(rows.gather(2, order[:, None, :].expand_as(gram)))
    curvature = upper.diagonal(dim1=-2, dim2=-1).pow(-2)
    return torch.empty_like(curvature).scatter_(1, order, curvature)[:, None, :]
