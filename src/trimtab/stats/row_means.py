"""What every row makes of a unit: the mean of a channel over a row's positions, kept for all rows of the pass."""

from collections import defaultdict

import torch
from torch import Tensor

from trimtab.graph import Network
from trimtab.graph.propagate import batch_dimensions
from trimtab.stats.observe import observe
from trimtab.stats.readings import Reading, find_readings, looks
from trimtab.tasks.rows import count
from trimtab.tasks.task import Inputs


class RowMeans:
    """Collects [rows, channels] of every reading whose value has the rows of the batch.

    A value may hold several rows of its own for each of the batch's (windows of an image), the batch's outermost.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        batch = {node.name: dims for node, dims in batch_dimensions(network.module).items()}
        readings = find_readings(network)
        self._at = {reading: batch[reading.like][0] for reading in readings if batch.get(reading.like)}
        self._looks = looks(list(self._at), self._see)
        self._means: dict[Reading, list[Tensor]] = defaultdict(list)
        self._count = 0

    @torch.no_grad()
    def add(self, inputs: Inputs) -> None:
        """One forward pass."""
        self._count = count(inputs)
        observe(self._network, inputs, looks=self._looks)

    def _see(self, reading: Reading, value: Tensor) -> None:
        channels = value.detach().double().movedim(reading.channels, -1)
        at = self._at[reading] if self._at[reading] < channels.dim() - 1 else 0
        rows = channels.movedim(at, 0)
        if len(rows) % self._count == 0:
            rows = rows.reshape(self._count, -1, channels.shape[-1])
            self._means[reading].append(rows.mean(1).cpu())

    def all(self) -> dict[Reading, Tensor]:
        """Of every reading the means of all rows, float64. Readings of one parameter stay apart."""
        return {reading: torch.cat(parts) for reading, parts in self._means.items()}
