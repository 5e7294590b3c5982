"""Entropy of what the units put out, over the rows."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from trimtab.graph import Network
from trimtab.stats.found import Found
from trimtab.stats.readings import mean_by_unit
from trimtab.stats.row_means import RowMeans
from trimtab.stats.statistic import Loss
from trimtab.tasks.task import Inputs

BINS = 32


class Entropy:
    """`units`: Shannon entropy in nats of a unit's mean output a row, in 32 bins of equal width over the range of all
    channels that are read together, so that a unit that hardly varies beside the others has little.

    Source: Luo & Wu 2017, "An Entropy-based Pruning Method for CNN Compression", eq. 2 (bins a unit there).
    """

    supervised: ClassVar[bool] = False

    def __init__(self, network: Network, loss: Loss) -> None:
        self._network, self._rows = network, RowMeans(network)

    def add(self, inputs: Inputs, target: Any) -> None:
        """One forward pass."""
        self._rows.add(inputs)

    def found(self) -> Found:
        """The entropies of all groups that a known operator reads."""
        return Found(units=mean_by_unit(self._network, {r: entropy(m) for r, m in self._rows.all().items()}))


def entropy(values: Tensor) -> Tensor:
    """[rows, channels] gives the entropy of each channel's histogram, in nats. [channels]"""
    low, high = values.min(), values.max()
    codes = ((values - low) / (high - low).clamp(min=1e-30) * BINS).long().clamp(0, BINS - 1)
    shares = torch.nn.functional.one_hot(codes, BINS).double().mean(0)
    return -torch.xlogy(shares, shares).sum(1)
