"""A digest of what a network is, whatever its weights are."""

import hashlib
import json
from typing import Any

from torch import fx
from torch.fx import Node

from trimtab.graph.modes import MARK


def fingerprint(module: fx.GraphModule) -> str:
    """sha256 (hex) over operators, wiring, constants, and names, shapes and dtypes of parameters and buffers.

    The same in train and eval mode.
    """
    number = {node: i for i, node in enumerate(module.graph.nodes)}
    nodes = [
        [node.op, _target(module, node), _plain(node.args, number, node), _plain(node.kwargs, number, node)]
        for node in number
    ]
    tensors = [
        [name, list(tensor.shape), str(tensor.dtype)]
        for name, tensor in sorted((*module.named_parameters(), *module.named_buffers()), key=lambda item: item[0])
    ]
    return hashlib.sha256(json.dumps([nodes, tensors], sort_keys=True).encode()).hexdigest()


def _target(module: fx.GraphModule, node: Node) -> str:
    if node.op == "call_module":
        return f"{node.target}: {type(module.get_submodule(str(node.target))).__name__}"
    return str(node.target) if not callable(node.target) or hasattr(node.target, "_schema") else node.target.__name__


def _plain(value: Any, number: dict[Node, int], node: Node) -> Any:
    if isinstance(value, Node):
        return f"%{number[value]}"
    if isinstance(value, (tuple, list)):
        switched = MARK in node.meta and value is node.args
        return [_plain(v, number, node) if not (switched and isinstance(v, bool)) else "mode" for v in value]
    if isinstance(value, dict):
        return {str(key): _plain(item, number, node) for key, item in value.items()}
    return repr(value)
