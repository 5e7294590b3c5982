"""Granularity: which entries of a weight leave together, and which stay when a share of them is removed.

Tensors only. A weight is [out, in, *kernel], and the score of a piece is the sum of its entries' scores.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from trimtab.errors import PlanError
from trimtab.plan import Kernels, NofM, Sparsity, Tiles, Weights


def keep(scores: Tensor, sparsity: Sparsity, share: float = 1.0) -> Tensor:
    """Where the weights stay, in the shape of `scores` (bool): those of the pieces that score highest.

    Of n pieces, round(fraction · share · n) leave; of equal scores the lower index stays. Of `NofM`, `kept` goes from
    `of` down to its value as `share` goes from 0 to 1.
    Raises: PlanError as `check`.
    """
    check("sparsity", scores.shape, sparsity)
    if isinstance(sparsity, NofM):
        blocks = scores.unflatten(1, (-1, sparsity.of)).movedim(2, -1)
        kept = sparsity.of - round(share * (sparsity.of - sparsity.kept))
        return _highest(blocks, kept).movedim(-1, 2).flatten(1, 2)
    values = pieces(scores, sparsity)
    stays = _highest(values.flatten(), values.numel() - round(sparsity.fraction * share * values.numel()))
    return _spread(stays.view_as(values), scores, sparsity)


def pieces(scores: Tensor, sparsity: Sparsity) -> Tensor:
    """The scores of the pieces that `sparsity` removes as wholes.

    Weights: [out, in, *kernel]. Kernels: [out, in]. Tiles of a × b: [out/a, in/b, *kernel]; a tile lies at one position
    of the kernel. NofM: its blocks, [out, in/of, *kernel].
    Raises: PlanError as `check`, when tiles or blocks do not divide the weight.
    """
    check("sparsity", scores.shape, sparsity)
    match sparsity:
        case Weights():
            return scores
        case Kernels():
            return scores.flatten(2).sum(2) if scores.dim() > 2 else scores
        case Tiles(shape=(rows, columns)):
            return scores.unflatten(1, (-1, columns)).unflatten(0, (-1, rows)).sum((1, 3))
        case NofM(of=of):
            return scores.unflatten(1, (-1, of)).sum(2)


def check(where: str, shape: Sequence[int], sparsity: Sparsity) -> None:
    """Raises: PlanError that begins with `where` when a weight of this shape cannot be made sparse in this way."""
    size = "×".join(map(str, shape))
    if len(shape) < 2:
        raise PlanError(f"{where}: a weight has at least the dimensions out and in, got {size or 'a number'}")
    if isinstance(sparsity, NofM):
        if shape[1] % sparsity.of:
            raise PlanError(
                f"{where}: {sparsity.kept} of {sparsity.of} needs inputs in multiples of {sparsity.of}, the weight is "
                f"{size} (out × in × kernel); choose an `of` that divides {shape[1]}, or another sparsity"
            )
        return
    if isinstance(sparsity, Tiles) and (shape[0] % sparsity.shape[0] or shape[1] % sparsity.shape[1]):
        tile = "×".join(map(str, sparsity.shape))
        raise PlanError(
            f"{where}: tiles of {tile} do not divide the weight, which is {size} (out × in × kernel); choose a tile "
            f"whose sides divide {shape[0]} and {shape[1]}"
        )
    number = piece_count(shape, sparsity)
    if round(sparsity.fraction * number) == number:
        raise PlanError(
            f"{where}: {sparsity.fraction:g} of {number} {sparsity.kind} leaves nothing; remove at most "
            f"{number - 1} of them, or cut the layer's group or branch"
        )


def piece_count(shape: Sequence[int], sparsity: Sparsity) -> int:
    """How many pieces a weight of this shape has (`pieces`)."""
    number = torch.Size(shape).numel()
    match sparsity:
        case Weights():
            return number
        case Kernels():
            return shape[0] * shape[1]
        case Tiles(shape=(rows, columns)):
            return number // (rows * columns)
        case NofM(of=of):
            return number // of


def _highest(scores: Tensor, kept: int) -> Tensor:
    """The `kept` highest along the last dimension, of equal scores the first."""
    if kept == scores.shape[-1]:
        return torch.ones_like(scores, dtype=torch.bool)
    lowest = scores.kthvalue(scores.shape[-1] - kept + 1, keepdim=True).values
    above, tied = scores > lowest, scores == lowest
    missing = kept - above.sum(-1, keepdim=True)
    return above | (tied & (tied.cumsum(-1) <= missing))


def _spread(stays: Tensor, scores: Tensor, sparsity: Sparsity) -> Tensor:
    """From pieces to the entries that they hold."""
    match sparsity:
        case Tiles(shape=(rows, columns)):
            return stays.repeat_interleave(rows, 0).repeat_interleave(columns, 1)
        case Kernels():
            return stays.view(*stays.shape, *[1] * (scores.dim() - 2)).expand_as(scores).contiguous()
        case _:
            return stays
