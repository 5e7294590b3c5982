"""Codes changed one at a time, each to the best that it can be while the others stay; and the scales between them."""

import torch
from torch import Tensor

from trimtab.solve.gptq import BLOCK, Nearest


def descend(weight: Tensor, gram: Tensor, cross: Tensor, nearest: Nearest, sweeps: int = 3) -> Tensor:
    """Coordinate descent on mean ‖y − Wx‖² over values that a grid can hold, from `weight` [groups, m, n].

    Of one entry the error is a parabola, so the nearest value to its minimum is the best that the grid has: no step
    makes the error larger. What a block of columns does to those outside is applied once for all of it. Ends early
    where a sweep changes nothing.
    """
    weight = weight.clone()
    slope = cross - weight @ gram
    curvature = gram.diagonal(dim1=-2, dim2=-1)
    columns = torch.arange(weight.shape[2]).expand(len(weight), 1, -1)
    for _ in range(sweeps):
        before = weight.clone()
        for start in range(0, weight.shape[2], BLOCK):
            block = slice(start, start + BLOCK)
            inside, among = slope[:, :, block].clone(), gram[:, block, block]
            for place, at in enumerate(range(start, min(start + BLOCK, weight.shape[2]))):
                bend = curvature[:, None, at : at + 1]
                now = weight[:, :, at : at + 1]
                best = now + torch.where(bend > 0, inside[:, :, place : place + 1] / bend, 0.0)
                step = nearest(best, columns[:, :, at : at + 1]) - now
                weight[:, :, at : at + 1] += step
                inside -= step * among[:, place : place + 1, :]
            slope -= (weight - before)[:, :, block] @ gram[:, block, :]
        if torch.equal(before, weight):
            break
    return weight


def best_scales(weight: Tensor, gram: Tensor, cross: Tensor, block: int) -> Tensor:
    """What to multiply each block of `block` columns of each row with, for the least error: [groups, m, n / block].

    A factor that is not above zero is 1 instead: it would turn the codes round.
    """
    parts = weight.shape[2] // block
    blocks = weight.unflatten(2, (parts, block))
    products = torch.empty(*weight.shape[:2], parts, parts, dtype=weight.dtype)
    for at in range(parts):
        alone = torch.zeros_like(weight)
        alone[:, :, at * block : (at + 1) * block] = blocks[:, :, at]
        products[:, :, at] = ((alone @ gram).unflatten(2, (parts, block)) * blocks).sum(-1)
    wanted = (cross.unflatten(2, (parts, block)) * blocks).sum(-1)
    tiny = 1e-9 * products.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None] + 1e-30
    factors = torch.linalg.solve(products + tiny * torch.eye(parts, dtype=weight.dtype), wanted[..., None])[..., 0]
    return torch.where((factors > 0) & factors.isfinite(), factors, 1.0)


def best_scale(weight: Tensor, gram: Tensor, cross: Tensor) -> Tensor:
    """What to multiply all of `weight` with for the least error; 1 where that is not above zero."""
    wanted, product = (cross * weight).sum(), ((weight @ gram) * weight).sum()
    return torch.where((wanted > 0) & (product > 0), wanted / product, 1.0)
