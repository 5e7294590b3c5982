"""Masks that pick positions: how many they show must be known, so a constant mask becomes the numbers that it shows."""

from typing import Any

import torch
from torch import Tensor, fx
from torch.fx import Node
from torch.fx.node import map_arg

from trimtab.errors import CaptureError
from trimtab.graph.source import of_node

aten = torch.ops.aten

_COUNTED_BY_VALUE = {aten.nonzero.default, aten.masked_select.default, aten.where.default}


def masks_to_positions(module: fx.GraphModule) -> None:
    """Rewrite x[:, mask] with a mask that no input reaches as x[:, positions].

    Raises: CaptureError naming the user's file and line where the number of positions depends on the input.
    """
    for node in list(module.graph.nodes):
        if node.target in _COUNTED_BY_VALUE:
            raise _counted(node)
        if node.target is aten.index.Tensor:
            _rewrite(module, node)
    module.graph.lint()
    module.recompile()


def _rewrite(module: fx.GraphModule, node: Node) -> None:
    given = node.args[1]
    assert isinstance(given, (list, tuple))
    indices: list[Any] = []
    for item in given:
        if not isinstance(item, Node) or not _is_mask(module, item):
            indices.append(item)
            continue
        mask = _constant(module, item)
        if mask is None:
            raise _counted(node)
        for positions in mask.nonzero(as_tuple=True):
            name = f"_positions_{sum(1 for key in module._buffers if key.startswith('_positions_'))}"
            module.register_buffer(name, positions, persistent=False)
            with module.graph.inserting_before(node):
                indices.append(module.graph.get_attr(name))
    if indices != list(given):
        node.update_arg(1, indices)


def _is_mask(module: fx.GraphModule, node: Node) -> bool:
    value = _attribute(module, node) if node.op == "get_attr" else node.meta.get("val")
    return isinstance(value, Tensor) and value.dtype in (torch.bool, torch.uint8)


def _constant(module: fx.GraphModule, node: Node) -> Tensor | None:
    """The value of a node that is computed from attributes and numbers alone."""
    reached, todo = set(), [node]
    while todo:
        item = todo.pop()
        if item.op not in ("get_attr", "call_function"):
            return None
        reached.add(item)
        todo += [given for given in item.all_input_nodes if given not in reached]
    values: dict[Node, Any] = {}
    for item in module.graph.nodes:
        if item not in reached:
            continue
        if item.op == "get_attr":
            values[item] = _attribute(module, item).clone()
        else:
            values[item] = item.target(*map_arg(item.args, values.get), **map_arg(item.kwargs, values.get))
    found = values[node]
    return found if isinstance(found, Tensor) else None


def _attribute(module: fx.GraphModule, node: Node) -> Any:
    owner, _, last = str(node.target).rpartition(".")
    return getattr(module.get_submodule(owner), last)


def _counted(node: Node) -> CaptureError:
    return CaptureError(
        f"{of_node(node)}: how many positions {node.target} gives depends on the values of a tensor; "
        "use torch.where or a multiplication by the mask"
    )
