"""Arithmetic cost: multiply-accumulates, and bit operations."""

from collections.abc import Sequence
from typing import Any, Protocol

from trimtab.plan import Plan

FLOAT_BITS = 32


class CountedLayer(Protocol):
    """The part of a graph Layer that counting needs."""

    @property
    def name(self) -> str: ...
    @property
    def weight(self) -> str: ...
    @property
    def positions(self) -> int: ...


class Counted(Protocol):
    """The part of a Network that counting needs."""

    @property
    def layers(self) -> Sequence[CountedLayer]: ...
    @property
    def module(self) -> Any: ...


def macs(network: Counted) -> int:
    """Multiply-accumulates of one sample, over all convolutions and linear layers."""
    return sum(_layer_macs(network, layer) for layer in network.layers)


def bops(network: Counted, plan: Plan | None = None) -> int:
    """Bit operations of one sample: MACs × weight bits × activation bits, by layer, the first and last included.

    Bits are those of the plan's decisions; a layer, or a side of it, that stays in float counts as 32.
    `network` has the widths that are counted: give the one that the plan was already applied to.
    """
    decisions = {decision.layer: decision for decision in plan.layers} if plan else {}
    total = 0
    for layer in network.layers:
        decision = decisions.get(
            layer.name.partition("#")[0]
        )  # further calls of a shared weight are stored as the first
        weight_bits = decision.weight.bits if decision and decision.weight else FLOAT_BITS
        activation_bits = decision.activation.bits if decision and decision.activation else FLOAT_BITS
        total += _layer_macs(network, layer) * weight_bits * activation_bits
    return total


def _layer_macs(network: Counted, layer: CountedLayer) -> int:
    return int(layer.positions * network.module.get_parameter(layer.weight).numel())
