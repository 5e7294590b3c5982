"""The ends of a network: what reads it first, and what nothing but its outputs comes after."""

from collections.abc import Collection, Iterable, Mapping

from torch.fx import Graph, Node


def first_and_last(graph: Graph, among: Collection[Node]) -> set[Node]:
    """Those of the nodes `among` with no other of them before them, or none after them, on any path."""
    nodes = list(graph.nodes)
    first = _first(nodes, among, {node: node.all_input_nodes for node in nodes})
    last = _first(nodes[::-1], among, {node: node.users for node in nodes})
    return first | last


def _first(nodes: Iterable[Node], among: Collection[Node], before: Mapping[Node, Collection[Node]]) -> set[Node]:
    """What is met first when all that is `before` a node comes earlier in `nodes`."""
    behind: set[Node] = set()
    found = set()
    for node in nodes:
        if any(other in behind or other in among for other in before[node]):
            behind.add(node)
        elif node in among:
            found.add(node)
    return found
