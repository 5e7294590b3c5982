"""Sensitivity: what changes the network's outputs least for what it saves leaves first."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from trimtab.search.pruning.subject import Points, Subject


class Sensitivity:
    """Least sum of the subjects' divergences, as measured one subject at a time, for what is saved.

    Curves are replaced by their lower convex hulls; then steps in rising order of slope / cost are the exact minimum at
    every amount that they pass through (the Lagrangian of an additive problem).
    Source: Everett 1963, "Generalized Lagrange Multiplier Method for Solving Problems of Optimum Allocation of
    Resources"; convex hulls as in Shoham & Gersho 1988, "Efficient Bit Allocation for an Arbitrary Set of Quantizers".
    """

    measures: ClassVar[bool] = True

    def __call__(self, subjects: Sequence[Subject]) -> list[Tensor]:
        """Divergence by unit of cost along the hull."""
        return [_slopes(s) / s.cost if s.cost > 0 else torch.full((len(s.removals),), torch.inf) for s in subjects]


def _slopes(subject: Subject) -> Tensor:
    """Slope of the hull where each step ends. [steps] float64"""
    hull = np.array(lower_hull(subject.curve))
    slopes = np.diff(hull[:, 1]) / np.diff(hull[:, 0])
    segment = np.searchsorted(hull[1:, 0], subject.removals.numpy())
    return torch.from_numpy(slopes)[torch.from_numpy(segment)] if len(slopes) else torch.zeros(0, dtype=torch.float64)


def lower_hull(points: Points) -> list[tuple[int, float]]:
    """The corners of the largest convex function below the points (Andrew's monotone chain), from left to right."""
    hull: list[tuple[int, float]] = []
    for x, y in sorted(points):
        while len(hull) > 1 and (hull[-1][1] - hull[-2][1]) * (x - hull[-2][0]) >= (y - hull[-2][1]) * (
            hull[-1][0] - hull[-2][0]
        ):
            hull.pop()
        hull.append((x, y))
    return hull
