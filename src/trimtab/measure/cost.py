"""Arithmetic cost: multiply-accumulates, and bit operations."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.fx import Node
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

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
    """The part of a Network that counting needs: its graph carries shapes in `meta["val"]`, inputs first."""

    @property
    def layers(self) -> Sequence[CountedLayer]: ...
    @property
    def module(self) -> Any: ...


def macs(network: Counted) -> int:
    """Multiply-accumulates of one sample: convolutions, linear layers, recurrent cells, and products of activations.

    Half of what torch's FLOP counter says of every operator, on shapes alone.
    """
    nodes = list(network.module.graph.nodes)
    rows = next(int(node.meta["val"].shape[0]) for node in nodes if node.op == "placeholder")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        for node in nodes:
            if isinstance(node.target, torch._ops.OpOverload) and _gives_floats(node):
                node.target(*pytree.tree_map(_shape_only, node.args), **pytree.tree_map(_shape_only, node.kwargs))
    return int(counter.get_total_flops()) // (2 * rows)


def _gives_floats(node: Node) -> bool:
    return any(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in pytree.tree_leaves(node.meta["val"]))


def _shape_only(argument: Any) -> Any:
    """A tensor on the meta device in place of a node that is one; a node that is a size becomes its number."""
    if not isinstance(argument, Node):
        return torch.device("meta") if isinstance(argument, torch.device) else argument
    return pytree.tree_map(_meta_tensor, argument.meta["val"])


def _meta_tensor(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return int(value) if isinstance(value, torch.SymInt) else value


def bops(network: Counted, plan: Plan | None = None) -> int:
    """Bit operations of one sample: MACs × weight bits × activation bits, by layer, the first and last included.

    Bits are those of the plan's decisions; a layer, or a side of it, that stays in float counts as 32, and so does what
    is no layer (products of activations). `network` has the widths that are counted: give the one that the plan was
    already applied to.
    """
    decisions = {decision.layer: decision for decision in plan.layers} if plan else {}
    total, rest = 0, macs(network)
    for layer in network.layers:
        decision = decisions.get(
            layer.name.partition("#")[0]
        )  # further calls of a shared weight are stored as the first
        weight_bits = decision.weight.bits if decision and decision.weight else FLOAT_BITS
        activation_bits = decision.activation.bits if decision and decision.activation else FLOAT_BITS
        of_layer = layer_macs(network, layer)
        total += of_layer * weight_bits * activation_bits
        rest -= of_layer
    return total + rest * FLOAT_BITS**2


def layer_macs(network: Counted, layer: CountedLayer) -> int:
    """Multiply-accumulates of one layer and one sample."""
    return int(layer.positions * network.module.get_parameter(layer.weight).numel())
