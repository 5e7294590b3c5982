"""Static, Iterative, Gradual: what was removed stays removed."""

import torch
from torch import Tensor

from trimtab.prune.schedules.goals import Entries
from trimtab.prune.schedules.pruner import Pruner


class Cuts(Pruner):
    """At every level the lowest scores of what is left leave.

    Source of the gradual ramp: Zhu & Gupta 2017, "To prune, or not to prune", eq. 1.
    """

    def _choose(self, entries: Entries, scores: Tensor) -> Tensor:
        return removed_further(entries, scores, self.level)


def removed_further(entries: Entries, scores: Tensor, level: float) -> Tensor:
    """The mask at a higher level, in which nothing comes back."""
    return entries.choose(scores.masked_fill(~entries.kept, -torch.inf), level)
