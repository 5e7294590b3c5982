"""Post-dominators of a graph: through which node all ways from a node to an end of the graph lead."""

from collections.abc import Mapping, Sequence

from torch import fx
from torch.fx import Node


class PostDominators:
    """The tree in which a node's parent is the nearest node on all its ways out; a node without users is an end.

    `effects` names for a node those that depend on it without reading what it returns.
    Built in O(n log n). Ancestors are found by jumps (Myers 1983, "An applicative random-access stack").
    """

    def __init__(self, graph: fx.Graph, effects: Mapping[Node, Sequence[Node]]) -> None:
        self._nodes = list(graph.nodes)
        self._index = {node: i for i, node in enumerate(self._nodes)}
        root = len(self._nodes)
        self._parent, self._jump, self._depth = [root] * (root + 1), [root] * (root + 1), [0] * (root + 1)
        for i in reversed(range(root)):
            node = self._nodes[i]
            self._hang(i, [self._index[user] for user in (*node.users, *effects.get(node, ()))] or [root])
        self._start, self._size = [0] * (root + 1), [1] * (root + 1)
        self._lay_out(root)

    def _hang(self, i: int, users: list[int]) -> None:
        parent = users[0]
        for user in users[1:]:
            parent = self._meet(parent, user)
        depth, jump = self._depth, self._jump
        even = depth[parent] - depth[jump[parent]] == depth[jump[parent]] - depth[jump[jump[parent]]]
        self._parent[i], depth[i], jump[i] = parent, depth[parent] + 1, jump[jump[parent]] if even else parent

    def _meet(self, a: int, b: int) -> int:
        """The nearest common ancestor."""
        parent, jump, depth = self._parent, self._jump, self._depth
        if depth[a] < depth[b]:
            a, b = b, a
        while depth[a] > depth[b]:
            a = jump[a] if depth[jump[a]] >= depth[b] else parent[a]
        while a != b:
            a, b = (jump[a], jump[b]) if jump[a] != jump[b] else (parent[a], parent[b])
        return a

    def _lay_out(self, root: int) -> None:
        """Every subtree as one stretch of a list; a child stands in the graph before its parent."""
        for i in range(root):
            self._size[self._parent[i]] += self._size[i]
        free = [1] * (root + 1)
        self._order = [root] * (root + 1)
        for i in reversed(range(root)):
            parent = self._parent[i]
            self._start[i] = free[parent]
            free[parent] += self._size[i]
            free[i] = self._start[i] + 1
            self._order[self._start[i]] = i

    def inside(self, node: Node) -> list[Node]:
        """The node and all whose every way out leads through it, in graph order."""
        i = self._index[node]
        return [self._nodes[k] for k in sorted(self._order[self._start[i] : self._start[i] + self._size[i]])]
