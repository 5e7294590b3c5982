"""A penalty on the bits that an entropy coder spends on the weights."""

import torch
from torch import Tensor

from trimtab.errors import ConfigError
from trimtab.graph import Network
from trimtab.graph.analysis import attribute
from trimtab.quant.stored import weight_reads
from trimtab.quant.weights import WeightFakeQuantize
from trimtab.solve import magnitude_bits


class Entropy:
    """Bits of all weights: −log₂ of the share of a code in its tensor, between codes in proportion to the distance.

    The gradient of a weight is what zero would save, over its distance from zero. It is not the slope of the bits,
    which is next to nothing between the codes that are rare: a weight there would never leave. Shares are those of the
    magnitudes as they are at each call, each counted once more than it occurs and halved for the sign; they are not
    differentiated. A code further from zero never counts as cheaper: else weights would gather at whatever code happens
    to be frequent. Over the weights that are rounded to integers on both sides of zero, evenly spaced.
    Negligible: one less the bits a weight over the bits of the grid.
    Source: in the spirit of Oktay et al. 2020, "Scalable Model Compression by Entropy Penalized Reparameterization",
    eq. 4, with counted shares in place of a learned density.
    """

    def __init__(self, network: Network) -> None:
        module = network.module
        sites: dict[str, tuple[WeightFakeQuantize, Tensor]] = {}
        for read in weight_reads(module):
            rounding = module.get_submodule(str(read.weight.target)) if read.weight.op == "call_module" else None
            if isinstance(rounding, WeightFakeQuantize) and rounding.grid.uniform and rounding.grid.signed:
                parameter = attribute(module, str(read.weight.all_input_nodes[0].target))
                sites[str(read.weight.target)] = rounding, parameter
        if not sites:
            raise ConfigError(
                "penalty 'entropy' acts on weights that are rounded to evenly spaced integers on both sides of zero, "
                "and the network has none; give its layers a weight scheme on the grid 'symmetric'"
            )
        self._sites = list(sites.values())

    def __call__(self) -> Tensor:
        return torch.stack([_bits(rounding, weight) for rounding, weight in self._sites]).sum()

    def negligible(self) -> float:
        """The share of the grids' bits that a coder saves."""
        whole = sum(rounding.grid.bits * weight.numel() for rounding, weight in self._sites)
        with torch.no_grad():
            return 1 - float(self()) / whole

    def finish(self) -> None:
        """Nothing was inserted."""


def _bits(rounding: WeightFakeQuantize, weight: Tensor) -> Tensor:
    """Bits of all weights of one tensor."""
    high = rounding.grid.high
    positions = rounding.rows(weight).abs() / rounding.step().reshape(-1, 1)
    known = positions.detach().clamp(max=high)
    cost = magnitude_bits(known.round(), high).to(positions)
    below = known.floor().clamp(max=high - 1).long()
    share = known - below
    beyond = (cost[below] * (1 - share) + cost[below + 1] * share) - cost[0]
    way = positions / positions.detach().clamp(min=torch.finfo(positions.dtype).tiny)
    return cost[0] * positions.numel() + (beyond * way).sum()
