"""What a layer shall come to: the value behind its batch norm and the addition of its shortcut, before rounding."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.fx import GraphModule, Node

from trimtab.graph.layers import OPERATORS
from trimtab.graph.values import bind
from trimtab.quant.operators import norm_of

aten = torch.ops.aten

_ADDITIONS = {aten.add.Tensor, aten.add_.Tensor}
_PASSING = {aten.dropout.default, aten.dropout_.default}


@dataclass(frozen=True)
class Outlet:
    """Behind a layer's `node`: the batch norm that only it feeds, and the addition of a value known before it runs."""

    node: Node
    norm: Node | None
    add: Node | None
    other: Node | None

    @property
    def own(self) -> Node:
        """Where the layer's own result is final."""
        return self.norm or self.node

    @property
    def channels(self) -> int:
        """The dimension of its output channels."""
        return -1 if OPERATORS[self.node.target] == "linear" else 1


def outlet_of(module: GraphModule, node: Node) -> Outlet:
    """The outlet of a layer's call."""
    norm = norm_of(node)
    if norm is not None and any(not isinstance(arg, Node) or arg.op != "get_attr" for arg in norm.args[3:5]):
        norm = None
    before = set()
    for earlier in node.graph.nodes:
        if earlier is node:
            break
        before.add(earlier)
    last = norm or node
    while len(last.users) == 1 and _passes(module, user := next(iter(last.users))):
        last = user
    add = next(iter(last.users)) if len(last.users) == 1 else None
    if add is not None and add.target in _ADDITIONS and bind(add)["alpha"] == 1:
        for operand in ("self", "other"):
            other = bind(add)[operand]
            if other in before and other.meta["val"].shape == add.meta["val"].shape:
                return Outlet(node, norm, add, other)
    return Outlet(node, norm, None, None)


def _passes(module: GraphModule, node: Node) -> bool:
    """Whether a node gives what it reads, but for rounding."""
    if node.op == "call_module":
        inserted: nn.Module = module.get_submodule(str(node.target))
        return bool(getattr(inserted, "elementwise", False))
    return node.target in _PASSING
