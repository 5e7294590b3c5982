"""Random: every unit, weight or branch matters as much as chance says. What any other criterion must beat."""

from hashlib import sha256
from typing import ClassVar

import torch
from torch import Tensor

from trimtab.graph import Branch, ChannelGroup, Network
from trimtab.prune.contract import Promise
from trimtab.prune.scores import Scores
from trimtab.stats import Stats


class Random:
    """Uniform in 0..1, drawn from `seed` and the name of the group, parameter or branch: the same every time."""

    needs: ClassVar[frozenset[str]] = frozenset()
    promises: ClassVar[frozenset[Promise]] = frozenset()

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def __call__(self, network: Network, group: ChannelGroup, stats: Stats) -> Scores:
        return Scores(group=group.name, values=self._draw(group.name, (group.width,)))

    def entries(self, network: Network, parameter: str, stats: Stats) -> Tensor:
        return self._draw(parameter, network.module.get_parameter(parameter).shape)

    def branch(self, network: Network, branch: Branch, stats: Stats) -> float:
        return float(self._draw(branch.name, (1,)))

    def _draw(self, name: str, shape: tuple[int, ...]) -> Tensor:
        seed = int.from_bytes(sha256(f"{self.seed}/{name}".encode()).digest()[:7], "big")
        return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
