"""What every layer's weight is multiplied with, as the covariance of its rows."""

from functools import partial
from typing import Any, ClassVar

import torch

from trimtab.graph import Network
from trimtab.solve import Gathering
from trimtab.stats.found import Found
from trimtab.stats.layer_rows import positions_of, rows_read
from trimtab.stats.observe import observe
from trimtab.stats.statistic import Loss
from trimtab.tasks.task import Inputs

_ROWS = 2**14
"""Rows of a layer that a batch gives, at most."""


class Gram:
    """`grams`: of the weight of a convolution or linear layer, the covariance of the rows that it multiplies.

    [groups, n, n] float64, n in the order of a weight's row. Positions of larger maps are drawn at random, the same in
    every batch. Of a weight that several calls read, all rows count.
    """

    supervised: ClassVar[bool] = False

    def __init__(self, network: Network, loss: Loss) -> None:
        self._network = network
        nodes = {node.name: node for node in network.module.graph.nodes}
        self._layers = {layer.node: (nodes[layer.node], layer) for layer in network.layers}
        self._gathered = {layer.weight: Gathering() for layer in network.layers}

    @torch.no_grad()
    def add(self, inputs: Inputs, target: Any) -> None:
        """One forward pass."""
        observe(self._network, inputs, looks={name: partial(self._see, name) for name in self._layers})

    def _see(self, name: str, given: dict[str, Any], result: Any) -> None:
        node, layer = self._layers[name]
        channels = -1 if layer.operator == "linear" else 1
        positions = positions_of([result], channels, seed=0, samples=_ROWS)
        kernel = tuple(given["weight"].shape[2:])
        rows = rows_read(node, given["input"].detach(), kernel, positions)
        self._gathered[layer.weight].add(rows, rows[..., :0])

    def found(self) -> Found:
        """Of everything that was seen. Raises: NumericsError for values that are not finite."""
        return Found(grams={name: gathering.found(name).gram for name, gathering in self._gathered.items()})
