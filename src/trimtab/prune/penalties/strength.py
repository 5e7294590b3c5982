"""The strength of a penalty, which grows until the penalty works, and falls where it does more than it must."""

from collections.abc import Mapping

import torch
from torch import Tensor

from trimtab.plan import Penalty
from trimtab.prune.penalties.contract import PenaltyTerm

ROOM = 0.1
"""What is not negligible may be less than asked for by this share, before the strength falls again."""


class Strength:
    """`value` is the factor of the penalty in the loss; `growth` multiplies it while too little is negligible.

    It is divided by `growth` again, though never below where it began, where less is left than `ROOM` under what may
    be left: to overshoot costs accuracy that nobody asked for.
    In the spirit of the growing regularization of Wang et al. 2021, "Neural Pruning via Growing Regularization".
    """

    def __init__(self, settings: Penalty, term: PenaltyTerm) -> None:
        self._settings, self._term = settings, term
        self.value = settings.strength

    def epoch_done(self) -> None:
        """Grow while too much is left, fall where too little is."""
        left, may = 1 - self._term.negligible(), 1 - self._settings.until
        if left > may:
            self.value *= self._settings.growth
        elif left < (1 - ROOM) * may:
            self.value = max(self.value / self._settings.growth, self._settings.strength)

    @property
    def works(self) -> bool:
        """Whether the share `until` is negligible."""
        return self._term.negligible() >= self._settings.until

    def state(self) -> dict[str, Tensor]:
        """All that is needed to go on."""
        return {"strength": torch.tensor(self.value, dtype=torch.float64)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""
        self.value = float(tensors["strength"])
