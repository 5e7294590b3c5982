"""Divergence: how far the outputs move when this layer alone is rounded, measured."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from trimtab.graph import Network
from trimtab.measure import divergence, outputs_of
from trimtab.stats import Stats
from trimtab.tasks.rows import lay_out
from trimtab.tasks.switches import evaluating
from trimtab.tasks.task import Inputs


class Divergence:
    """Mean squared change of the outputs over their variance, on the inputs. Needs no labels and no gradients."""

    needs: ClassVar[frozenset[str]] = frozenset()
    measures: ClassVar[bool] = True

    def __init__(self, network: Network, stats: Stats, inputs: Sequence[Inputs]) -> None:
        self._inputs = lay_out(inputs, torch.channels_last)
        self._variant = network.clone().eval()
        with evaluating(network):
            self._reference = outputs_of(network, self._inputs)

    def loss(self, parameter: str, rounded: Tensor) -> float:
        """One pass over the inputs. Raises: NumericsError for outputs that are not finite."""
        weight = self._variant.module.get_parameter(parameter)
        own = weight.detach().clone()
        with torch.no_grad():
            weight.copy_(rounded)
            found = divergence(outputs_of(self._variant, self._inputs), self._reference)
            weight.copy_(own)
        return found
