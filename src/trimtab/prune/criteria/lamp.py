"""LAMP: magnitude, normalized by what is left of a layer when everything smaller is gone."""

from typing import ClassVar

from torch import Tensor

from trimtab.graph import ChannelGroup, Network
from trimtab.prune.comparable import comparable, share_of_rest
from trimtab.prune.contract import Promise
from trimtab.prune.makers import sum_over_makers, weight_of
from trimtab.prune.scores import Scores
from trimtab.stats import Stats


class Lamp:
    """score_u = w_u² / Σ w_v² over all v with w_v² >= w_u² in the same parameter: the squared error that removing it
    adds, relative to what is still there. The largest scores 1, so no layer is ever emptied by a global threshold.

    Entries: of single weights. Units: of the squared norms of everything that makes them, within their group.
    Source: Lee et al. 2021, "Layer-adaptive Sparsity for the Magnitude-based Pruning", eq. 2.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    promises: ClassVar[frozenset[Promise]] = frozenset({"equivariant", "scale_free", "useless_unit", "useless_entry"})

    def __call__(self, network: Network, group: ChannelGroup, stats: Stats) -> Scores:
        """Raises: NumericsError when a weight is not finite."""
        squares = sum_over_makers(network, group, lambda name: weight_of(network, name).square())
        return Scores(group=group.name, values=comparable(group, squares.sqrt()))

    def entries(self, network: Network, parameter: str, stats: Stats) -> Tensor:
        """Scores of the parameter's weights, 0..1."""
        return share_of_rest(weight_of(network, parameter).square())
