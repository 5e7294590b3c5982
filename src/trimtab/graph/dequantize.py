"""From a fake-quantized network back to one in float: weights become what they were rounded to, nothing else rounds."""

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn
from torch.fx import Node

from trimtab.errors import PlanError
from trimtab.graph.analysis import attribute
from trimtab.graph.network import Network

ROUNDING = "fake_quantize"
"""The submodule that holds every module that rounds."""


def dequantize(network: Network) -> Network:
    """A float copy of a fake-quantized network: the same graph without what rounds, with the rounded weights.

    What was removed stays removed. A parameter that other operators read unrounded (a tied embedding) stays as it is
    for them, and a second one holds the rounded values. `network` stays as it is; one that rounds nothing is copied.
    Raises: PlanError for a weight that something else computes before it is rounded (finalize the network first).
    """
    result = network.clone()
    module = result.module
    calls: dict[str, list[Node]] = {}
    for node in module.graph.find_nodes(op="call_module"):
        if str(node.target).startswith(f"{ROUNDING}."):
            calls.setdefault(str(node.target), []).append(node)
    for name, nodes in calls.items():
        first = nodes[0].all_input_nodes[0]
        if first.op == "get_attr":
            with torch.no_grad():
                rounded = module.get_submodule(name)(attribute(module, str(first.target))).detach().clone()
            _store(module, nodes, rounded)
        elif _computed_from_weight(first):
            raise PlanError(f"dequantize: {first.name} computes a weight; call finalize on the network first")
        for node in nodes:
            node.replace_all_uses_with(node.all_input_nodes[0])
            module.graph.erase_node(node)
    if hasattr(module, ROUNDING):
        delattr(module, ROUNDING)
    module.graph.lint()
    module.recompile()
    result.refresh()
    return result


def _computed_from_weight(value: Node) -> bool:
    """Whether modules were put between a weight and its rounding."""
    while value.op == "call_module":
        value = value.all_input_nodes[0]
        if value.op == "get_attr":
            return True
    return False


def _store(module: fx.GraphModule, nodes: Sequence[Node], rounded: Tensor) -> None:
    """Give the readers of these calls, which round one weight, a parameter that holds the rounded values."""
    weight = attribute(module, str(nodes[0].all_input_nodes[0].target))
    reads = [n for n in module.graph.find_nodes(op="get_attr") if attribute(module, str(n.target)) is weight]
    if all(user in nodes for read in reads for user in read.users):
        with torch.no_grad():
            weight.copy_(rounded)
        return
    second = nn.Parameter(rounded, requires_grad=weight.requires_grad)
    for node in nodes:
        (read,) = node.all_input_nodes
        name = f"{read.target}_rounded"
        owner, _, last = name.rpartition(".")
        setattr(module.get_submodule(owner), last, second)
        with module.graph.inserting_before(node):
            again = module.graph.get_attr(name)
        again.meta = dict(read.meta)
        node.args = (again,)
        if not read.users:
            module.graph.erase_node(read)
