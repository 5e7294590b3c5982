"""The weights of a layer that come nearest to targets, in closed form."""

from dataclasses import replace

import torch
from torch import Tensor

from trimtab.errors import NumericsError
from trimtab.solve.moments import Moments

DAMPINGS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 100.0)
"""From the plain solution to weights that hardly move. Products of float32 values err by about 1e-6 of the mean
diagonal: less would not keep a gram of inputs that depend on each other positive."""


def damped(gram: Tensor, damping: float) -> Tensor:
    """`gram` [groups, n, n] with `damping` times its mean diagonal added to the diagonal, so that it has an inverse."""
    size = gram.shape[-1]
    mean = gram.diagonal(dim1=-2, dim2=-1).mean(-1)
    added = damping * torch.where(mean > 0, mean, torch.ones_like(mean))
    return gram + added[:, None, None] * torch.eye(size, dtype=gram.dtype)


def pulled(moments: Moments, weight: Tensor, damping: float) -> Moments:
    """The moments of  mean ‖y − Wx‖² + λ ‖W − weight‖²  with λ = `damping` · mean(diag gram).

    Whatever is solved with them stays near `weight` [groups, m, n] where the data say nothing.
    """
    gram = damped(moments.gram, damping)
    added = (gram - moments.gram).diagonal(dim1=-2, dim2=-1)
    return replace(moments, gram=gram, cross=moments.cross + weight * added[:, None])


def least_squares(gram: Tensor, cross: Tensor) -> Tensor:
    """The weights [groups, m, n] of least mean ‖y − Wx‖². Raises: NumericsError for a gram without an inverse."""
    factor, failed = torch.linalg.cholesky_ex(gram)
    solution = torch.cholesky_solve(cross.mT, factor)
    if bool(failed.any()):  # singular to rounding: elimination with pivots may still do
        solution, failed = torch.linalg.solve_ex(gram, cross.mT)
    if bool(failed.any()) or not bool(solution.isfinite().all()):
        raise NumericsError("least squares: inputs that depend on each other leave the weights open; add damping")
    return solution.mT


def on_survivors(gram: Tensor, cross: Tensor, kept: Tensor) -> Tensor:
    """As `least_squares`, with every entry outside of `kept` [groups, m, n] (bool) zero: exact for each row."""
    out = torch.zeros_like(cross)
    for group, row in kept.any(-1).nonzero().tolist():
        at = kept[group, row].nonzero().flatten()
        alone = least_squares(gram[group][at][None, :, at], cross[group, row, at][None, None])
        out[group, row, at] = alone.flatten()
    return out


def mean_squared_error(gram: Tensor, cross: Tensor, weight: Tensor) -> Tensor:
    """mean ‖y − Wx‖² of every output [groups, m], less the part that no weight changes."""
    return ((weight @ gram - 2 * cross) * weight).sum(-1)


def choose_damping(
    first: Moments,
    second: Moments,
    weight: Tensor,
    rough: Tensor | None = None,
    candidates: tuple[float, ...] = DAMPINGS,
) -> float:
    """The damping whose solution on each half of the data has the least error on the other half.

    With `rough`, what the weight [groups, m, n] will be like when entries are removed or rounded: every second column
    is that, and the others make up for it. (An untouched weight, where the inputs are, needs nothing made up for.)
    """

    def error(damping: float) -> float:
        total = 0.0
        for fitted, seen in ((first, second), (second, first)):
            near = pulled(fitted, weight, damping)
            if rough is None:
                solved = least_squares(near.gram, near.cross)
            else:
                solved = rough.clone()
                there = rough[..., ::2] @ near.gram[:, ::2, 1::2]
                solved[..., 1::2] = least_squares(near.gram[:, 1::2, 1::2], near.cross[..., 1::2] - there)
            total += float(mean_squared_error(seen.gram, seen.cross, solved).sum())
        return total

    return min(candidates, key=error)
