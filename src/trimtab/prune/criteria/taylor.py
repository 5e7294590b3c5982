"""Taylor: a unit matters as much as the loss would change, to first order, without it."""

from typing import ClassVar

from trimtab.errors import ConfigError
from trimtab.graph import ChannelGroup, Network
from trimtab.prune.scores import Scores
from trimtab.stats import Stats


class Taylor:
    """First-order change of the loss when a unit is removed, in units of the loss, comparable between groups.

    score_u = mean over batches of |Σ w·∂L/∂w| over the weights that read the unit, which equals |∂L/∂gate_u| for a
    gate on the unit.
    Source: Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning", eq. 8, with |·| for (·)² so that
    the unit is the loss's.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"gradient"})

    def __call__(self, network: Network, group: ChannelGroup, stats: Stats) -> Scores:
        """Raises: ConfigError when `stats` was collected without "gradient" or for another network."""
        if group.name not in stats.gradient:
            raise ConfigError(
                f"{group.name}: 'taylor' needs the statistic 'gradient'; collect(…, needs={{'gradient'}})"
            )
        return Scores(group=group.name, values=stats.gradient[group.name].abs().mean(0))
