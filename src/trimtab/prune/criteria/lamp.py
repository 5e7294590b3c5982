"""LAMP: magnitude, normalized by what is left of a layer when everything smaller is gone."""

from typing import ClassVar

from torch import Tensor

from trimtab.graph import Network
from trimtab.prune.comparable import share_of_rest
from trimtab.prune.contract import Promise
from trimtab.prune.makers import weight_of
from trimtab.stats import Stats


class Lamp:
    """score_w = w² / Σ v² over all v with v² >= w² in the same parameter: the squared error that removing it adds,
    relative to what is still there. The largest scores 1, so no layer is ever emptied by a global threshold.

    Of single weights; `magnitude` does the same for units.
    Source: Lee et al. 2021, "Layer-adaptive Sparsity for the Magnitude-based Pruning", eq. 2.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    promises: ClassVar[frozenset[Promise]] = frozenset({"useless_entry"})

    def entries(self, network: Network, parameter: str, stats: Stats) -> Tensor:
        """Scores of the parameter's weights, 0..1."""
        return share_of_rest(weight_of(network, parameter).square())
