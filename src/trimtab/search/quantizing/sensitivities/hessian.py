"""Hessian: the curvature of the loss in a layer, times the squared error of its weights."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from trimtab.graph import Network
from trimtab.stats import Stats
from trimtab.tasks.task import Inputs


class Hessian:
    """Ω = (trace of H / n) · ‖rounded − weight‖², H the second derivatives by the layer's n weights.

    Source: Dong et al. 2020, "HAWQ-V2: Hessian Aware trace-Weighted Quantization of Neural Networks", eq. 4 (there the
    sum over layers, Ω). The trace is Hutchinson's estimate; one below zero counts as zero.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"hessian"})
    measures: ClassVar[bool] = False

    def __init__(self, network: Network, stats: Stats, inputs: Sequence[Inputs]) -> None:
        self._network, self._stats = network, stats

    def loss(self, parameter: str, rounded: Tensor) -> float:
        """In units of the task's loss. Raises: ConfigError for statistics of another network."""
        weight = self._network.module.get_parameter(parameter).detach()
        trace = self._stats.entries("hessian", parameter).mean().clamp(min=0)
        return float(trace) * float((rounded - weight).double().square().sum())
