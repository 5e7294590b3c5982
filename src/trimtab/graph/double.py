"""A network in double precision, casts inside the graph included: what a proof is made with."""

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.utils import _pytree as pytree

from trimtab.graph.grouped import grouped_mm
from trimtab.graph.network import Network
from trimtab.graph.values import bind, set_argument

aten = torch.ops.aten

_NARROW = (torch.float32, torch.float16, torch.bfloat16)


def doubled(network: Network) -> Network:
    """A copy in eval mode and float64."""
    copy = network.clone().eval()
    for node in copy.module.graph.nodes:
        node.args = pytree.tree_map(_widen, node.args)
        node.kwargs = pytree.tree_map(_widen, node.kwargs)
        _widen_created(node)
        if node.target is aten._grouped_mm.default:
            _widen_grouped(node)
    copy.module.recompile()
    return copy.to(torch.float64)


def _widen_grouped(node: Node) -> None:
    """torch's grouped product of rows with a stack of matrices takes no float64."""
    given = bind(node)
    ranks = [given[name].meta["val"].dim() for name in ("self", "mat2")]
    if ranks == [2, 3] and given["bias"] is None:
        node.target = grouped_mm._opoverload
        node.args, node.kwargs = (given["self"], given["mat2"], given["offs"]), {}


def _widen_created(node: Node) -> None:
    """A tensor made from numbers alone has the default dtype where none is named."""
    schema, value = getattr(node.target, "_schema", None), node.meta.get("val")
    if schema is None or not isinstance(value, Tensor) or value.dtype not in _NARROW:
        return
    tensors = any(isinstance(item.meta.get("val"), Tensor) for item in node.all_input_nodes)
    if not tensors and any(argument.name == "dtype" for argument in schema.arguments):
        set_argument(node, "dtype", torch.float64)


def _widen(argument: Any) -> Any:
    return torch.float64 if argument in _NARROW and isinstance(argument, torch.dtype) else argument
