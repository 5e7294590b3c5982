"""Zeros moved to other places, knowing the codes: one weight goes, another comes back as the best code it can be."""

import torch
from torch import Tensor

from trimtab.solve.gptq import Nearest

CANDIDATES = 64
"""Of each row: the weights that would be missed least, and the zeros that would help most, in all pairs."""

_LEAST_GAIN = 1e-9
"""Of the error's scale: what is less is rounding."""


def swap(
    weight: Tensor, gram: Tensor, cross: Tensor, nearest: Nearest, kept: Tensor, sharing: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Swaps that make mean ‖y − Wx‖² smaller, the best of each row in turn, until there is none.

    `weight` [groups, m, n] holds values of the grid, zero outside of `kept` (bool). For i that stays and j that does
    not, with d_i = −w_i and s = c − H w: Δ = −2 s_i d_i + H_ii d_i² − 2 (s_j − H_ij d_i) d_j + H_jj d_j², where d_j is
    the nearest value to (s_j − H_ij d_i) / H_jj. With `sharing` [blocks, of], columns of which so many
    stay, both are of one block and all pairs are tried; else those of 64 and 64 candidates. Returns: weight and kept.
    """
    weight, kept = weight.clone(), kept.clone()
    slope = cross - weight @ gram
    bend = gram.diagonal(dim1=-2, dim2=-1)[:, None, :].expand_as(weight)
    scale = (cross * weight).sum(-1).abs() + 1e-30
    for _ in range(2 * weight.shape[2]):
        goes, comes = _pairs(weight, slope, bend, kept, sharing)
        away = -weight.gather(2, goes)
        both = _entries(gram, goes, comes)
        left = slope.gather(2, comes) - both * away
        curve = bend.gather(2, comes)
        new = nearest(torch.where(curve > 0, left / curve, 0.0), comes)
        rise = (bend.gather(2, goes) * away - 2 * slope.gather(2, goes)) * away + (curve * new - 2 * left) * new
        rise[~kept.gather(2, goes) | kept.gather(2, comes)] = torch.inf
        least, at = rise.min(2, keepdim=True)
        better = least < -_LEAST_GAIN * scale[..., None]
        if not better.any():
            break
        i, j = goes.gather(2, at), comes.gather(2, at)
        steps = ((i, away.gather(2, at) * better), (j, new.gather(2, at) * better))
        for column, step in steps:
            slope -= step * _columns(gram, column)
            weight.scatter_add_(2, column, step)
        kept.scatter_(2, i, kept.gather(2, i) & ~better)
        kept.scatter_(2, j, kept.gather(2, j) | better)
        weight *= kept
    return weight, kept


def _pairs(weight: Tensor, slope: Tensor, bend: Tensor, kept: Tensor, sharing: Tensor | None) -> tuple[Tensor, Tensor]:
    """Columns that may go and columns that may come, pair by pair: [groups, m, pairs] each."""
    if sharing is not None:
        of = sharing.shape[1]
        first = sharing.repeat_interleave(of, 1).flatten()
        second = sharing.repeat(1, of).flatten()
        return first.expand(*weight.shape[:2], -1), second.expand(*weight.shape[:2], -1)
    number = min(CANDIDATES, weight.shape[2])
    missed = (bend * weight + 2 * slope) * weight
    helps = slope.square() / bend.clamp(min=1e-30)
    goes = missed.masked_fill(~kept, torch.inf).topk(number, largest=False).indices
    comes = helps.masked_fill(kept, -torch.inf).topk(number).indices
    return goes.repeat_interleave(number, 2), comes.repeat(1, 1, number)


def _entries(gram: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """gram[g, i, j] for every pair."""
    n = gram.shape[-1]
    return gram.flatten(1).gather(1, (rows * n + columns).flatten(1)).view(rows.shape)


def _columns(gram: Tensor, column: Tensor) -> Tensor:
    """The column of `gram` [groups, n, n] that each row names: [groups, m, n]."""
    return gram.gather(1, column.expand(-1, -1, gram.shape[2]))
