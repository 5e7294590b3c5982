"""Means and centred products of what a layer reads and what it shall write, gathered batch by batch."""

from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.errors import NumericsError, TaskError


@dataclass(frozen=True)
class Moments:
    """Of rows x and targets y, for each group of a convolution: means, and centred mean products; float64, CPU.

    `gram` [groups, n, n] is the covariance of x, `cross` [groups, m, n] that of y with x; `mean_x` [groups, n],
    `mean_y` [groups, m].
    """

    count: int
    mean_x: Tensor
    mean_y: Tensor
    gram: Tensor
    cross: Tensor

    def about_zero(self) -> "Moments":
        """The same without a constant: products of the values themselves, for a layer that has no bias."""
        x, y = self.mean_x, self.mean_y
        return Moments(
            count=self.count,
            mean_x=torch.zeros_like(x),
            mean_y=torch.zeros_like(y),
            gram=self.gram + x[:, :, None] * x[:, None, :],
            cross=self.cross + y[:, :, None] * x[:, None, :],
        )


class Gathering:
    """Moments of batches: products in the dtype of the values, about each batch's mean, summed in float64.

    Source: Chan, Golub & LeVeque 1979, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances".
    """

    def __init__(self) -> None:
        self._sum: Moments | None = None

    def add(self, x: Tensor, y: Tensor) -> None:
        """`x` [groups, rows, n], `y` [groups, rows, m]."""
        mean_x, mean_y = x.mean(1, keepdim=True), y.mean(1, keepdim=True)
        centred_x = x - mean_x
        new = Moments(
            count=x.shape[1],
            mean_x=_exact(mean_x.squeeze(1)),
            mean_y=_exact(mean_y.squeeze(1)),
            gram=_exact(centred_x.mT @ centred_x),
            cross=_exact((y - mean_y).mT @ centred_x),
        )
        self._sum = new if self._sum is None else _merged(self._sum, new)

    def with_all(self, other: "Gathering") -> "Gathering":
        """What both have gathered."""
        both = Gathering()
        both._sum = _merged(self._sum, other._sum) if self._sum and other._sum else self._sum or other._sum
        return both

    def found(self, where: str) -> Moments:
        """The moments of all rows. Raises: TaskError without rows, NumericsError for NaN or infinity."""
        total = self._sum
        if total is None or not total.count:
            raise TaskError(f"{where}: no rows to solve with; give at least one batch")
        if not bool(total.gram.isfinite().all() and total.cross.isfinite().all()):
            raise NumericsError(f"{where}: NaN or infinity in what it reads or shall write; check weights and data")
        return Moments(total.count, total.mean_x, total.mean_y, total.gram / total.count, total.cross / total.count)


def _exact(sums: Tensor) -> Tensor:
    """In float64, which not every accelerator has, so on the CPU."""
    return sums.cpu().double()


def _merged(a: Moments, b: Moments) -> Moments:
    """Sums of products of both, about the common mean."""
    count = a.count + b.count
    x, y = b.mean_x - a.mean_x, b.mean_y - a.mean_y
    weight = a.count * b.count / count
    return Moments(
        count=count,
        mean_x=a.mean_x + x * (b.count / count),
        mean_y=a.mean_y + y * (b.count / count),
        gram=a.gram + b.gram + weight * (x[:, :, None] * x[:, None, :]),
        cross=a.cross + b.cross + weight * (y[:, :, None] * x[:, None, :]),
    )
