"""Arithmetic cost: multiply-accumulates, and bit operations."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from trimtab.graph import Layer, Network, cut
from trimtab.plan import Plan
from trimtab.prune.masks import prunable as may_be_sparse

FLOAT_BITS = 32


def macs(network: Network) -> int:
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


def bops(network: Network, plan: Plan | None = None) -> int:
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


def layer_macs(network: Network, layer: Layer) -> int:
    """Multiply-accumulates of one layer and one sample."""
    return int(layer.positions * network.module.get_parameter(layer.weight).numel())


def zero_share(network: Network) -> float:
    """The share (0…1) of exact zeros among the weights that may be sparse: of layers and recurrent matrices."""
    weights = [network.module.get_parameter(name) for name in may_be_sparse(network).values()]
    zeros = sum(int((weight.detach() == 0).sum()) for weight in weights)
    return zeros / max(sum(weight.numel() for weight in weights), 1)


@dataclass(frozen=True, kw_only=True)
class Prunable:
    """Shares (0…1) of parameters and MACs that go when every group is cut to the fewest units that it may have."""

    parameters: float
    macs: float


def prunable(network: Network) -> Prunable:
    """How much of a network can be cut, without regard to what that costs in accuracy."""
    smallest = cut(network, {group.name: range(group.least) for group in network.groups})
    parameters = [sum(parameter.numel() for parameter in n.parameters()) for n in (smallest, network)]
    return Prunable(
        parameters=1 - parameters[0] / max(parameters[1], 1),
        macs=1 - macs(smallest) / max(macs(network), 1),
    )
