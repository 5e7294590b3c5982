"""Samplers that do not learn: a grid, and chance."""

import math
from itertools import product

import numpy as np

from trimtab.search.corrections import LEAST, MOST, Factors

_STEPS = (1.0, 4.0, 1 / 4)


class Grid:
    """Every factor is 1/4, 1 or 4: first all where one is not 1, then two, and so on."""

    def __init__(self, *, seed: int, trials: int) -> None:
        points = sorted(product(_STEPS, repeat=len(Factors.model_fields)), key=lambda p: -p.count(1.0))
        self._left = iter(points)

    def ask(self) -> Factors | None:
        """The next point of the grid."""
        point = next(self._left, None)
        return None if point is None else Factors(**dict(zip(Factors.model_fields, point, strict=True)))

    def tell(self, factors: Factors, value: float) -> None:
        """The grid is what it is."""


class Random:
    """All factors log-uniform."""

    def __init__(self, *, seed: int, trials: int) -> None:
        self._drawn = np.random.default_rng(seed)

    def ask(self) -> Factors:
        """Independent of all before."""
        logs = self._drawn.uniform(math.log(LEAST), math.log(MOST), len(Factors.model_fields))
        values = np.exp(logs).clip(LEAST, MOST).tolist()
        return Factors(**dict(zip(Factors.model_fields, values, strict=True)))

    def tell(self, factors: Factors, value: float) -> None:
        """Chance does not learn."""
