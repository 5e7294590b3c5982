"""Masks: a removed weight is exactly zero, and is put back to zero after every step. `keep` is True where one stays."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.fx import Node
from torch.utils import _pytree as pytree

from trimtab.errors import PlanError
from trimtab.graph import Network
from trimtab.graph.analysis import attribute, tensor_names
from trimtab.graph.values import bind
from trimtab.plan import Plan

aten = torch.ops.aten

_RECURRENT = {
    aten.lstm.input: ("params",),
    aten.gru.input: ("params",),
    aten.rnn_tanh.input: ("params",),
    aten.rnn_relu.input: ("params",),
    aten.lstm_cell.default: ("w_ih", "w_hh"),
    aten.gru_cell.default: ("w_ih", "w_hh"),
    aten.rnn_tanh_cell.default: ("w_ih", "w_hh"),
    aten.rnn_relu_cell.default: ("w_ih", "w_hh"),
}
"""Operators with recurrent matrices, and the arguments that hold them."""

_FILLERS = {aten.constant_pad_nd.default, aten.unflatten.int, aten.flatten.using_ints}
"""What a cut may put between a recurrent matrix and its operator."""


def prunable(network: Network) -> dict[str, str]:
    """The weights that may be sparse: the layer's name in a plan → the parameter, in graph order.

    They are the weights of convolutions and linear layers (by the names of `network.layers`, a shared one once) and the
    matrices of recurrent operators (by the parameter's own name, "lstm.weight_ih_l0"); not biases, norms and tables.
    """
    calls = {layer.node: layer for layer in network.layers}
    names = tensor_names(network.module)
    found: dict[str, str] = {}
    for node in network.module.graph.nodes:
        if node.name in calls:
            weight = calls[node.name].weight
            found[weight.removesuffix(".weight")] = weight
        found |= {matrix: matrix for matrix in _recurrent_matrices(network, node, names)}
    return found


def hold(parameters: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    """Put the parameters to zero, in place, where their masks are False; both by the parameter's name."""
    if not masks:  # torch refuses an empty list
        return
    if masks:
        with torch.no_grad():
            torch._foreach_mul_([parameters[name] for name in masks], list(masks.values()))


def masks_of(network: Network, plan: Plan) -> dict[str, Tensor]:
    """By parameter, where the weights of a network that `apply` made are not zero, of the layers with a sparsity.

    Raises: PlanError when such a layer is not in the network.
    """
    known, parameters = prunable(network), dict(network.named_parameters())
    masks = {}
    for decision in plan.layers:
        if decision.sparsity is not None:
            if decision.layer not in known:
                raise PlanError(f"plan: no layer {decision.layer!r} in this network; give the one that the plan made")
            masks[known[decision.layer]] = parameters[known[decision.layer]].detach() != 0
    return masks


def _recurrent_matrices(network: Network, node: Node, names: Mapping[int, str]) -> Iterator[str]:
    """The names of the matrices among a recurrent operator's parameters."""
    if node.target not in _RECURRENT:
        return
    arguments = bind(node)
    for item in pytree.tree_leaves([arguments[name] for name in _RECURRENT[node.target]]):
        while isinstance(item, Node) and item.target in _FILLERS:
            item = item.args[0]
        if isinstance(item, Node) and item.op == "get_attr":
            tensor = attribute(network.module, str(item.target))
            if isinstance(tensor, torch.nn.Parameter) and tensor.dim() == 2:
                yield names[id(tensor)]
