"""Erdős–Rényi kernel: layers with few weights for their channels and kernel sides stay denser."""

from collections.abc import Sequence
from math import prod
from typing import ClassVar

from torch import Tensor

from trimtab.errors import ConfigError
from trimtab.search.pruning.subject import Subject


class ErdosRenyi:
    """Of a layer [out, in, *kernel] the share (out + in + Σ kernel) / (out · in · Π kernel) stays, times one factor.

    The factor falls from where all are dense until enough is removed; a share is at most 1.
    Source: Evci et al. 2020, "Rigging the Lottery: Making All Tickets Winners", sec. 3.1, after Mocanu et al. 2018,
    "Scalable Training of Artificial Neural Networks with Adaptive Sparse Connectivity Inspired by Network Science".
    """

    measures: ClassVar[bool] = False

    def __call__(self, subjects: Sequence[Subject]) -> list[Tensor]:
        """Minus the factor at which a step leaves. Raises: ConfigError for what is no layer."""
        return [-(1 - (s.removals - s.sizes / 2).double() / s.pieces) / _relative_density(s) for s in subjects]


def _relative_density(subject: Subject) -> float:
    if not subject.shape:
        raise ConfigError(
            f"prune: {subject.name}: 'erdos_renyi' goes by the shape of a layer's weight; take it for weights, kernels "
            "or tiles, or another allocation"
        )
    return sum(subject.shape) / prod(subject.shape)
