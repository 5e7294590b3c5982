"""Which values of a graph share memory, and who writes into it: an in-place operator changes more than it returns."""

from collections import defaultdict

import torch
from torch import Tensor, fx
from torch.fx import Node
from torch.utils import _pytree as pytree

from trimtab.graph.values import bind

aten = torch.ops.aten

DROPOUTS = {
    aten.dropout.default,
    aten.dropout_.default,
    aten.feature_dropout.default,
    aten.alpha_dropout.default,
    aten.feature_alpha_dropout.default,
}
"""In eval mode they give back their input itself, which their schema does not say."""


class Memory:
    """Owners of memory, read from the storages of the example values in `meta["val"]`.

    `owner` is the node that first had a value's memory (itself where it is fresh); `written` lists for every in-place
    operator the owners of what it writes, `effects` who reads that memory next, up to the next writer, and `affected`
    is the same seen from the readers.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self.owner: dict[Node, Node] = {}
        self.written: dict[Node, list[Node]] = {}
        self.effects: dict[Node, list[Node]] = {}
        self.affected: dict[Node, list[Node]] = {}
        self._writers: dict[Node, list[Node]] = defaultdict(list)
        self._place = {node: i for i, node in enumerate(graph.nodes)}
        first: dict[int, Node] = {}
        for node in graph.nodes:
            self.owner[node] = self._find_owner(node, first)
            self._note_effects(node)
            written = [self.owner[item] for item in _written(node)]
            if written:
                self.written[node] = written
            for owner in written:
                self._writers[owner].append(node)

    def _find_owner(self, node: Node, first: dict[int, Node]) -> Node:
        leaves = pytree.tree_leaves(node.meta.get("val"))
        keys = [leaf.untyped_storage()._cdata for leaf in leaves if isinstance(leaf, Tensor)]
        owner = next((first[key] for key in keys if key in first), node)
        if node.target in DROPOUTS and isinstance(node.args[0], Node):
            owner = self.owner[node.args[0]]
        for key in keys:
            first.setdefault(key, owner)
        return owner

    def _note_effects(self, node: Node) -> None:
        for owner in {self.owner[item]: None for item in node.all_input_nodes}:
            if self._writers[owner]:
                self.effects.setdefault(self._writers[owner][-1], []).append(node)
                self.affected.setdefault(node, []).append(self._writers[owner][-1])

    def written_after(self, node: Node, value: Node) -> bool:
        """Whether an operator later than `node` writes into the memory of `value` (which may be new in the graph)."""
        writers = self._writers.get(self.owner.get(value, value), ())
        return any(self._place[writer] > self._place[node] for writer in writers)


def _written(node: Node) -> list[Node]:
    """The nodes into whose values an operator writes."""
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None or not schema.is_mutable:
        return []
    arguments = bind(node)
    names = [a.name for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    return [item for name in names for item in pytree.tree_leaves(arguments[name]) if isinstance(item, Node)]
