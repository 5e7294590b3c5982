"""Penalties on single weights, and the weights that they act on."""

from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from trimtab.errors import ConfigError
from trimtab.graph import Network
from trimtab.prune.masks import prunable
from trimtab.prune.penalties.contract import NEGLIGIBLE


class WeightPenalty:
    """Σ `of(weight)` over the weights of all layers. Negligible: at most a hundredth of the layer's largest."""

    name: ClassVar[str]

    def __init__(self, network: Network) -> None:
        self._weights = weights_of(network, self.name)

    def __call__(self) -> Tensor:
        return total({name: self.of(weight) for name, weight in self._weights.items()})

    def of(self, weight: Tensor) -> Tensor:
        """The penalty of one weight tensor, a scalar."""
        raise NotImplementedError

    def negligible(self) -> float:
        """The share of all weights."""
        return share_below(self._weights.values())

    def finish(self) -> None:
        """Nothing was inserted."""


def weights_of(network: Network, penalty: str) -> dict[str, nn.Parameter]:
    """All weights that may be sparse, by parameter, each once. Raises: ConfigError when there is none."""
    parameters = dict(network.named_parameters())
    found = {name: parameters[name] for name in prunable(network).values()}
    if not found:
        raise ConfigError(f"penalty {penalty!r} acts on the weights of layers, and the network has none; leave it out")
    return found


def share_below(values: Iterable[Tensor]) -> float:
    """The share of all magnitudes that are below `NEGLIGIBLE` of the largest in their own tensor."""
    small = number = 0
    for tensor in values:
        size = tensor.detach().abs()
        small += int((size <= NEGLIGIBLE * size.amax()).sum())
        number += size.numel()
    return small / number


def total(values: Mapping[str, Tensor]) -> Tensor:
    """The sum of scalars."""
    return torch.stack(list(values.values())).sum()
