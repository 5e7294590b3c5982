"""Global: one threshold over the network."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from trimtab.search.pruning.subject import Subject


class OverNetwork:
    """The lowest scores leave, wherever they are; of several pieces that leave in one step, their mean counts.

    Whether scores of different subjects can be compared is the criterion's business.
    """

    measures: ClassVar[bool] = False

    def __call__(self, subjects: Sequence[Subject]) -> list[Tensor]:
        """The scores."""
        return [s.step_scores for s in subjects]

    def thresholds(self, subjects: Sequence[Subject], quantile: float) -> list[float]:
        """The quantile of all scores, for every subject."""
        return [float(np.quantile(torch.cat([s.scores for s in subjects]).numpy(), quantile))] * len(subjects)
