"""What a criterion is: a class without constructor arguments that scores units, single weights or branches."""

from typing import ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor

from trimtab.graph import Branch, ChannelGroup, Network
from trimtab.prune.scores import Scores
from trimtab.stats import Stats

Promise = Literal["equivariant", "scale_free", "useless_unit", "useless_entry", "useless_branch"]
"""What a criterion is held to by `trimtab.testing.check_criterion`, beside what all are.

equivariant: units in another order have the same scores. scale_free: the scores of units do not change when all that
makes them is multiplied by one factor. useless_…: a unit, weight or branch of zeros has the lowest score.
"""


class Criterion(Protocol):
    """`needs` names the statistics that must be collected, keys of STATISTICS; `promises` what its scores are held to.

    It lacks the method of a granularity for which it makes no sense. Higher scores are kept; scores of different
    groups, parameters or branches can be compared with one another. They are >= 0 unless the class says "signed".
    """

    needs: ClassVar[frozenset[str]]
    promises: ClassVar[frozenset[Promise]]


@runtime_checkable
class UnitCriterion(Criterion, Protocol):
    """Scores the units of a channel group."""

    def __call__(self, network: Network, group: ChannelGroup, stats: Stats) -> Scores: ...


@runtime_checkable
class EntryCriterion(Criterion, Protocol):
    """Scores single weights: a tensor of the parameter's shape, float64, on the CPU.

    They add up: the score of a tile, a kernel or a block is the sum over its entries.
    """

    def entries(self, network: Network, parameter: str, stats: Stats) -> Tensor: ...


@runtime_checkable
class BranchCriterion(Criterion, Protocol):
    """Scores a residual branch."""

    def branch(self, network: Network, branch: Branch, stats: Stats) -> float: ...
