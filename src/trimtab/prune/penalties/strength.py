"""The strength of a penalty, which grows until the penalty works."""

from collections.abc import Mapping

import torch
from torch import Tensor

from trimtab.plan import Penalty
from trimtab.prune.penalties.contract import PenaltyTerm


class Strength:
    """`value` is the factor of the penalty in the loss; `growth` multiplies it while too little is negligible.

    In the spirit of the growing regularization of Wang et al. 2021, "Neural Pruning via Growing Regularization".
    """

    def __init__(self, settings: Penalty, term: PenaltyTerm) -> None:
        self._settings, self._term = settings, term
        self.value = settings.strength

    def epoch_done(self) -> None:
        """Grow, unless the penalty works."""
        if not self.works:
            self.value *= self._settings.growth

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
