"""A penalty at work: its strength times its value, for the loss."""

from collections.abc import Mapping

from torch import Tensor

from trimtab.graph import Network
from trimtab.plan import Penalty
from trimtab.prune import PENALTIES
from trimtab.prune.penalties.contract import PenaltyTerm
from trimtab.prune.penalties.strength import Strength


class Pressure:
    """The term that a penalty adds to the loss, and its strength, which grows until it works and may fall again.

    It may insert modules into the network, until `finish`.
    """

    def __init__(self, network: Network, settings: Penalty) -> None:
        self._term: PenaltyTerm = PENALTIES.load(settings.kind)(network)
        self._strength = Strength(settings, self._term)

    def __call__(self) -> Tensor:
        return self._strength.value * self._term()

    @property
    def strength(self) -> float:
        """The factor as it is now."""
        return self._strength.value

    @property
    def works(self) -> bool:
        """Whether as much is negligible as was asked for."""
        return self._strength.works

    def epoch_done(self) -> None:
        """Grow where the penalty does not work yet, fall where it does too much."""
        self._strength.epoch_done()

    def finish(self) -> None:
        """Take what was inserted out of the network, its effect baked into the weights."""
        self._term.finish()

    def state(self) -> dict[str, Tensor]:
        """The strength; what is learned is in the network."""
        return self._strength.state()

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to what `state` gave."""
        self._strength.restore(tensors)
