"""Sub-graphs that only switch a mode are written into the graph that calls them."""

from typing import Any

import torch
from torch import fx
from torch.fx import Node
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

higher_order = torch.ops.higher_order


def inline_regions(module: fx.GraphModule) -> None:
    """Inline `no_grad` regions, whose results are detached, and regions with autocast switched off.

    A region that switches autocast on stays a call, which freezes what it touches.
    """
    while (node := next(filter(_is_plain, module.graph.nodes), None)) is not None:
        _inline(module, node)
    used = {str(node.target).partition(".")[0] for node in module.graph.find_nodes(op="get_attr")}
    for name, child in list(module.named_children()):
        if isinstance(child, fx.GraphModule) and name.startswith("submod_") and name not in used:
            delattr(module, name)
    module.graph.lint()
    module.recompile()


def _is_plain(node: Node) -> bool:
    if node.target is higher_order.wrap_with_set_grad_enabled:
        return True
    return node.target is higher_order.wrap_with_autocast and node.args[2] is False


def _inline(module: fx.GraphModule, node: Node) -> None:
    first = 1 if node.target is higher_order.wrap_with_set_grad_enabled else 4
    detached = first == 1 and node.args[0] is False
    inner, operands = node.args[first], node.args[first + 1 :]
    assert isinstance(inner, Node)
    name = str(inner.target)
    region = module.get_submodule(name)
    results = _copy(module.graph, node, (name, region.graph), operands)  # type: ignore[arg-type]
    if detached:
        results = pytree.tree_map(lambda item: _detach(node, item), results)
    for user in list(node.users):
        user.replace_all_uses_with(results[user.args[1]])
        module.graph.erase_node(user)
    module.graph.erase_node(node)
    if not inner.users:
        module.graph.erase_node(inner)


def _copy(graph: fx.Graph, before: Node, region: tuple[str, fx.Graph], operands: tuple[Any, ...]) -> Any:
    """The region's nodes copied in front of `before`; its outputs."""
    name, inner = region
    places = iter(operands)
    copies: dict[Node, Any] = {}
    with graph.inserting_before(before):
        for node in inner.nodes:
            if node.op == "placeholder":
                copies[node] = next(places)
            elif node.op == "output":
                return map_arg(node.args[0], copies.__getitem__)
            else:
                copies[node] = graph.node_copy(node, copies.__getitem__)
                if node.op in ("get_attr", "call_module"):
                    copies[node].target = f"{name}.{node.target}"
    raise ValueError(f"the region {name} has no output")


def _detach(node: Node, item: Any) -> Any:
    if not isinstance(item, Node) or not isinstance(item.meta.get("val"), torch.Tensor):
        return item
    with node.graph.inserting_before(node):
        out = node.graph.call_function(torch.ops.aten.detach.default, (item,))
    out.meta = dict(item.meta)
    return out
