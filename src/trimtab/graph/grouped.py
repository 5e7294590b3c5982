"""The product of rows with a stack of matrices, in any precision: torch's own takes no float64, which proofs need."""

import torch
from torch import Tensor


@torch.library.custom_op("trimtab::grouped_mm", mutates_args=())
def grouped_mm(rows: Tensor, stack: Tensor, offsets: Tensor) -> Tensor:
    """[S, I] with [E, I, O] gives [S, O]: rows from offsets[e - 1] up to offsets[e] (int, [E]) belong to matrix e."""
    out = rows.new_zeros(rows.shape[0], stack.shape[2])
    start = 0
    for matrix, end in zip(stack, offsets.tolist(), strict=True):
        out[start:end] = rows[start:end] @ matrix
        start = end
    return out


@grouped_mm.register_fake
def _shape(rows: Tensor, stack: Tensor, offsets: Tensor) -> Tensor:
    return rows.new_empty(rows.shape[0], stack.shape[2])
