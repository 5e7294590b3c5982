"""What every penalty is."""

from typing import Protocol

from torch import Tensor

from trimtab.graph import Network

NEGLIGIBLE = 0.01
"""A weight, scale or unit is negligible when it is below this share of the largest one that it competes with."""


class PenaltyTerm(Protocol):
    """A term for the loss, of a network's parameters as they are at every call.

    It is made from a network before the network's optimizer: it may insert modules with parameters, until `finish`.
    Raises: ConfigError when the network has nothing that it acts on.
    """

    def __init__(self, network: Network) -> None: ...

    def __call__(self) -> Tensor:
        """A scalar, differentiable."""
        ...

    def negligible(self) -> float:
        """The share, 0..1, of what it acts on that has become negligible."""
        ...

    def finish(self) -> None:
        """Take out of the network what was inserted; the outputs in eval mode stay the same."""
        ...
