"""The weights that penalties on single weights act on."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from trimtab.errors import ConfigError
from trimtab.graph import Network
from trimtab.prune.masks import prunable
from trimtab.prune.penalties.contract import NEGLIGIBLE


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
