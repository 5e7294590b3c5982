"""Masks by optimal brain surgery: what costs least leaves, the rest makes up for it, and again."""

import torch
from torch import Tensor

from trimtab.solve.pieces import Pieces

_COMPACTIONS = 8
"""How often, on the way from all blocks to none, what is gone is taken out of the matrices."""

_CACHED = 2**19
"""Entries of inverses that are worked on together: what a processor's cache holds."""


def surgery(weight: Tensor, gram: Tensor, pieces: Pieces) -> Tensor:
    """Which entries of `weight` [groups, m, n] stay (bool): pieces leave greedily, as `removals` does, over all bands.

    A row that counts k times as much as another is given times √k.
    """
    order = pieces.columns.flatten()
    bands = weight[:, :, order].unflatten(1, (-1, pieces.rows))
    blocks, size = pieces.columns.shape
    leaving, rise = removals(bands, gram[:, order][:, :, order], size, pieces.quota)
    counts = torch.full(rise.shape[:2], rise.shape[2]) if pieces.quota else _cheapest(rise, pieces.removed)
    stays = _left_after(leaving, counts, blocks).repeat_interleave(size, 2).repeat_interleave(pieces.rows, 1)
    return torch.empty_like(stays).index_copy_(2, order, stays)


def removals(weight: Tensor, gram: Tensor, size: int, quota: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
    """In which order blocks of columns leave each band of rows, and what each costs when it goes.

    `weight` [groups, bands, rows, n] is that of least mean ‖y − Wx‖², `gram` [groups, n, n] of x, with an inverse. A
    block is `size` consecutive columns of all rows of a band. In every step each band loses the block whose loss raises
    its error least, the others being set anew to the least squares: Δ = tr(W_B (H⁻¹_BB)⁻¹ W_Bᵀ). `quota` (kept, of):
    of every `of` consecutive blocks so many stay.
    Returns: blocks in their order [groups, bands, k], and the rise of the error by each; k is the number of blocks, or
    how many the quota lets go.
    Source: Hassibi & Stork 1993, "Second order derivatives for network pruning: Optimal Brain Surgeon"; exact and row
    by row as in Frantar, Singh & Alistarh 2022, "Optimal Brain Compression", section 4, algorithm 1 and its extension
    to blocks and N:M.
    """
    groups, bands, _, n = weight.shape
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    order, rise = [], []
    together = max(1, _CACHED // n**2)
    for group in range(groups):
        for first in range(0, bands, together):
            some = weight[group, first : first + together]
            found = leaving(some, inverse[group].expand(len(some), n, n), size, quota)
            order.append(found[0])
            rise.append(found[1])
    return torch.cat(order).view(groups, bands, -1), torch.cat(rise).view(groups, bands, -1)


def leaving(weight: Tensor, inverse: Tensor, size: int, quota: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
    """`removals` of bands [bands, rows, n], each with an inverse [bands, n, n] of its own.

    Columns that never leave may be missing from both.
    """
    weight, inverse = weight.clone(), inverse.clone()
    bands, _, n = weight.shape
    number = n // size
    kept, of = quota or (0, number)
    steps = number // of * (of - kept)
    ids = torch.arange(number).expand(bands, number)  # the block that lies at each place
    gone = torch.zeros(bands, number, dtype=torch.bool)
    left = torch.full((bands, number // of), of - kept)  # how many may still go, by the blocks that share a quota
    every = torch.arange(bands)
    order = torch.empty(bands, steps, dtype=torch.long)
    rise = torch.empty(bands, steps, dtype=weight.dtype)
    for step in range(steps):
        if step and step % max(1, number // _COMPACTIONS) == 0:
            weight, inverse, ids, gone = _without(gone, weight, inverse, ids, size)
        losses = _losses(weight, inverse, size, gone)
        losses[gone | (left.gather(1, ids // of) == 0)] = torch.inf
        rise[:, step], at = losses.min(1)
        columns = at[:, None] * size + torch.arange(size)
        rows = inverse.gather(1, columns[:, :, None].expand(-1, -1, inverse.shape[2]))
        share = torch.linalg.solve(rows.gather(2, columns[:, None, :].expand(-1, size, -1)), rows)
        lost = weight.gather(2, columns[:, None, :].expand(-1, weight.shape[1], -1))
        weight.baddbmm_(lost, share, alpha=-1)
        inverse.baddbmm_(rows.mT, share, alpha=-1)
        order[:, step] = ids[every, at]
        gone[every, at] = True
        left[every, order[:, step] // of] -= 1
    return order, rise


def _losses(weight: Tensor, inverse: Tensor, size: int, gone: Tensor) -> Tensor:
    """tr(W_B (H⁻¹_BB)⁻¹ W_Bᵀ) of every block. [bands, blocks]"""
    if size == 1:
        return weight.square().sum(1) / inverse.diagonal(dim1=1, dim2=2).where(~gone, 1.0)
    parts = inverse.shape[1] // size
    blocks = inverse.unflatten(2, (parts, size)).unflatten(1, (parts, size)).diagonal(dim1=1, dim2=3).movedim(-1, 1)
    blocks = torch.where(gone[:, :, None, None], torch.eye(size, dtype=inverse.dtype), blocks)
    values = weight.unflatten(2, (parts, size)).movedim(2, 1)  # [bands, blocks, rows, size]
    return (torch.linalg.solve(blocks, values.mT).mT * values).sum((2, 3))


def _without(
    gone: Tensor, weight: Tensor, inverse: Tensor, ids: Tensor, size: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same without the blocks that are gone: of every band equally many."""
    bands = len(weight)
    places = (~gone).nonzero()[:, 1].view(bands, -1)
    columns = (places[:, :, None] * size + torch.arange(size)).flatten(1)
    weight = weight.gather(2, columns[:, None, :].expand(-1, weight.shape[1], -1))
    inverse = inverse.gather(1, columns[:, :, None].expand(-1, -1, inverse.shape[2]))
    inverse = inverse.gather(2, columns[:, None, :].expand(-1, inverse.shape[1], -1))
    return weight, inverse, ids.gather(1, places), torch.zeros_like(places, dtype=torch.bool)


def _cheapest(rise: Tensor, number: int) -> Tensor:
    """How many blocks each band loses, of `number` in all, for the least sum of `rise` [groups, bands, k].

    A step that is cheaper than one before it counts as dear as that: blocks leave in their order.
    """
    price = rise.cummax(-1).values.flatten()
    counts = torch.zeros_like(price)
    counts[price.argsort(stable=True)[:number]] = 1
    return counts.view_as(rise).sum(-1).long()


def _left_after(order: Tensor, counts: Tensor, blocks: int) -> Tensor:
    """Which blocks stay when each band has lost the first `counts` of its order. [groups, bands, blocks]"""
    rank = torch.full((*order.shape[:2], blocks), order.shape[2])
    rank.scatter_(2, order, torch.arange(order.shape[2]).expand_as(order))
    return rank >= counts[..., None]
