"""Sensitivities: what it costs to store a layer's weight with an error. One file each."""

from collections.abc import Sequence
from typing import ClassVar, Protocol

from torch import Tensor

from trimtab.graph import Network
from trimtab.registry import Registry
from trimtab.stats import Stats
from trimtab.tasks.task import Inputs

SENSITIVITIES = Registry(
    "sensitivity",
    {
        "divergence": "trimtab.search.quantizing.sensitivities.divergence:Divergence",
        "fisher": "trimtab.search.quantizing.sensitivities.fisher:Fisher",
        "hessian": "trimtab.search.quantizing.sensitivities.hessian:Hessian",
    },
)


class Sensitivity(Protocol):
    """`needs` names statistics, which `stats` then holds; `measures` says that `inputs` are run through the network."""

    needs: ClassVar[frozenset[str]]
    measures: ClassVar[bool]

    def __init__(self, network: Network, stats: Stats, inputs: Sequence[Inputs]) -> None: ...

    def loss(self, parameter: str, rounded: Tensor) -> float:
        """What the network loses, at least 0, when this parameter alone has other values, those it is rounded to."""
        ...
