"""The layers of a graph: every convolution or linear that has a weight parameter.

A weight that the graph computes (weight norm, a mask, any parametrization) is stored nowhere, so it is no layer: it
stays in float, and its parameters are seen as members of the groups only.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import fx, nn
from torch.fx import Node

from trimtab.graph.analysis import attribute, tensor_names
from trimtab.graph.values import bind

aten = torch.ops.aten

Operator = Literal["convolution", "linear"]

OPERATORS: dict[Any, Operator] = {
    aten.conv1d.default: "convolution",
    aten.conv2d.default: "convolution",
    aten.conv3d.default: "convolution",
    aten.conv1d.padding: "convolution",
    aten.conv2d.padding: "convolution",
    aten.conv3d.padding: "convolution",
    aten.linear.default: "linear",
}


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One call of a layer. `name` is the weight's name without ".weight" ("#2" for the second call of a shared weight).

    `positions` are output positions a sample: the MACs of one sample are `positions * weight.numel()`.
    """

    name: str
    operator: Operator
    weight: str
    bias: str | None
    node: str
    positions: int


def find_layers(module: fx.GraphModule) -> tuple[Layer, ...]:
    """All layers in graph order; shapes are read from `meta["val"]`."""
    names = tensor_names(module)
    batch = _batch(module)
    calls: dict[str, int] = {}
    out = []
    for node in module.graph.nodes:
        operator = OPERATORS.get(node.target)
        weight = None if operator is None else parameter_of(module, bind(node)["weight"], names)
        if operator is None or weight is None:
            continue
        name = weight.removesuffix(".weight")
        calls[name] = calls.get(name, 0) + 1
        channels = attribute(module, weight).shape[0]
        out.append(
            Layer(
                name=name if calls[name] == 1 else f"{name}#{calls[name]}",
                operator=operator,
                weight=weight,
                bias=parameter_of(module, bind(node)["bias"], names),
                node=node.name,
                positions=max(node.meta["val"].numel() // (batch * channels), 1),
            )
        )
    return tuple(out)


def parameter_of(module: fx.GraphModule, node: Any, names: dict[int, str]) -> str | None:
    """The parameter that a node reads, directly or through inserted element-wise modules; None when there is none."""
    while isinstance(node, Node) and node.op == "call_module":
        node = node.args[0]
    if not isinstance(node, Node) or node.op != "get_attr":
        return None
    tensor = attribute(module, str(node.target))
    return names[id(tensor)] if isinstance(tensor, nn.Parameter) else None


def _batch(module: fx.GraphModule) -> int:
    first = next(node for node in module.graph.nodes if node.op == "placeholder")
    return int(first.meta["val"].shape[0])
