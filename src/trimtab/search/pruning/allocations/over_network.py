"""Global: one threshold over the network."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from trimtab.search.pruning.subject import Subject


class OverNetwork:
    """The lowest scores for what is saved leave, wherever they are; of pieces that leave in one step the mean counts.

    Whether scores of different subjects can be compared is the criterion's business.
    """

    measures: ClassVar[bool] = False

    def __call__(self, subjects: Sequence[Subject]) -> list[Tensor]:
        """The scores by unit of cost."""
        return [s.step_scores / s.cost if s.cost > 0 else torch.full_like(s.step_scores, torch.inf) for s in subjects]

    def thresholds(self, subjects: Sequence[Subject], quantile: float) -> list[float]:
        """The quantile of all scores, for every subject."""
        return [float(np.quantile(torch.cat([s.scores for s in subjects]).numpy(), quantile))] * len(subjects)
