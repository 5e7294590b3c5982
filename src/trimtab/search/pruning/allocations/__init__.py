"""Allocations: in which order the subjects lose their steps. One file each."""

from collections.abc import Sequence
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor

from trimtab.registry import Registry
from trimtab.search.pruning.subject import Subject

ALLOCATIONS = Registry(
    "allocation",
    {
        "uniform": "trimtab.search.pruning.allocations.uniform:Uniform",
        "global": "trimtab.search.pruning.allocations.over_network:OverNetwork",
        "erdos_renyi": "trimtab.search.pruning.allocations.erdos_renyi:ErdosRenyi",
        "sensitivity": "trimtab.search.pruning.allocations.sensitivity:Sensitivity",
    },
)


class Allocation(Protocol):
    """`measures`: it reads the subjects' curves and costs."""

    measures: ClassVar[bool]

    def __call__(self, subjects: Sequence[Subject]) -> list[Tensor]:
        """For every subject the priority of each of its steps, not falling; over all, the lowest leave first."""
        ...


@runtime_checkable
class Thresholding(Protocol):
    """An allocation that is one of thresholds on scores, so that a quantile can be asked of it."""

    def thresholds(self, subjects: Sequence[Subject], quantile: float) -> list[float]:
        """The score below which pieces leave, for each subject."""
        ...
