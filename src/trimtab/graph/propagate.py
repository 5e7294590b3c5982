"""Shapes of every node on the example, without computing: `meta["val"]` becomes a fake tensor or an integer."""

from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Node
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from trimtab.graph.unrolled import UNROLLED, outputs


class _Shapes(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, mode: FakeTensorMode) -> None:
        super().__init__(module)
        self.mode = mode
        self.found: dict[Node, Any] = {}

    def run_node(self, n: Node) -> Any:
        if n.op == "call_module" and getattr(self.module.get_submodule(str(n.target)), "elementwise", False):
            result = self.map_nodes_to_values(n.args[0], n)
        elif n.target in UNROLLED:
            arguments: Any = map_arg(n.args, self.env.__getitem__)
            result = outputs(*arguments)
        else:
            result = super().run_node(n)
        if isinstance(result, Tensor) and not isinstance(result, torch._subclasses.FakeTensor):
            result = self.mode.from_tensor(result, static_shapes=True)
        if n.op != "output":
            self.found[n] = result
        return result


def propagate(module: fx.GraphModule, example: Any) -> None:
    """Refresh `meta["val"]` of every node for the leaves of `example`, in the order of the graph's inputs."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        inputs = [mode.from_tensor(leaf, static_shapes=True) for leaf in pytree.tree_leaves(example)]
        shapes = _Shapes(module, mode)
        shapes.run(*inputs, enable_io_processing=False)
    for node, value in shapes.found.items():
        node.meta["val"] = value


def batch_dimensions(module: fx.GraphModule) -> dict[Node, tuple[int, ...]]:
    """The dimensions of every node's tensor that grow with the number of rows.

    The graph's shapes are compared with those for two rows more.
    """
    values = [node.meta["val"] for node in module.graph.find_nodes(op="placeholder")]
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        inputs = [torch.empty((v.shape[0] + 2, *v.shape[1:]), dtype=v.dtype, device=v.device) for v in values]
        shapes = _Shapes(module, mode)
        shapes.run(*inputs, enable_io_processing=False)
    found: dict[Node, tuple[int, ...]] = {}
    for node, value in shapes.found.items():
        before = node.meta.get("val")
        if isinstance(value, Tensor) and isinstance(before, Tensor):
            found[node] = tuple(i for i, (a, b) in enumerate(zip(value.shape, before.shape, strict=True)) if a != b)
    return found
