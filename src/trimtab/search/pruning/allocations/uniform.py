"""Uniform: every subject loses the same share."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from torch import Tensor

from trimtab.errors import ConfigError
from trimtab.search.pruning.subject import Subject


class Uniform:
    """A step leaves when the wanted share comes nearer to what is gone after it than to what was gone before it."""

    measures: ClassVar[bool] = False

    def __call__(self, subjects: Sequence[Subject]) -> list[Tensor]:
        """The middles of the steps, as shares of the subject. Raises: ConfigError where all are of one piece."""
        if all(s.pieces == 1 for s in subjects):
            raise ConfigError("prune: 'uniform' has no share of one piece (a branch) to take; take 'global' instead")
        return [(s.removals - s.sizes / 2).double() / s.pieces for s in subjects]

    def thresholds(self, subjects: Sequence[Subject], quantile: float) -> list[float]:
        """Local: each subject's own quantile."""
        return [float(np.quantile(s.scores.numpy(), quantile)) for s in subjects]
