"""How often the units put out anything."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from trimtab.graph import Network
from trimtab.stats.found import Found
from trimtab.stats.observe import observe
from trimtab.stats.readings import Reading, find_readings, looks, mean_by_unit
from trimtab.stats.statistic import Loss
from trimtab.tasks.task import Inputs

AT_REST = 0.5
"""A value this close to its channel's median, in root mean squares of the whole tensor's distances, is at rest."""


class Activity:
    """`units`: the share of what is read of a unit, over rows and positions, that is not at rest, 0..1.

    A channel rests at its median of the batch, which is zero for a ReLU that is mostly off; one that stays at another
    number says as little. Activations that come close to rest without reaching it (LSTM, GELU) are at rest too.
    """

    supervised: ClassVar[bool] = False

    def __init__(self, network: Network, loss: Loss) -> None:
        self._network = network
        self._active: dict[Reading, Tensor] = {}
        self._numbers: dict[Reading, int] = {}
        self._looks = looks(find_readings(network), self._see)

    @torch.no_grad()
    def add(self, inputs: Inputs, target: Any) -> None:
        """One forward pass."""
        observe(self._network, inputs, looks=self._looks)

    def _see(self, reading: Reading, value: Tensor) -> None:
        rows = value.detach().double().movedim(reading.channels, -1).flatten(0, -2)
        distances = (rows - rows.median(0).values).abs()
        active = distances > AT_REST * distances.square().mean().sqrt()
        self._active[reading] = self._active.get(reading, 0) + active.sum(0)
        self._numbers[reading] = self._numbers.get(reading, 0) + len(rows)

    def found(self) -> Found:
        """Shares of everything that was seen."""
        return Found(units=mean_by_unit(self._network, {r: a / self._numbers[r] for r, a in self._active.items()}))
