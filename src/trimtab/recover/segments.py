"""Where a graph narrows to one value: the blocks between, of which each reads what the one before wrote."""

from dataclasses import dataclass
from itertools import pairwise

from torch.fx import Node

from trimtab.graph import Network
from trimtab.recover.stepwise import Steps


@dataclass(frozen=True)
class Segment:
    """`nodes` in order, which read `start` and no other value from before, and whose last one alone is read later.

    `layers` are the calls in it that were asked about.
    """

    start: Node
    nodes: tuple[Node, ...]
    layers: tuple[Node, ...]

    @property
    def end(self) -> Node:
        """The node whose value is the block's."""
        return self.nodes[-1]


def segments(network: Network, layers: tuple[Node, ...]) -> tuple[Segment, ...]:
    """The shortest blocks that hold `layers`, in order; a residual block is one, a layer of a plain chain another.

    What stands between two blocks and has no layer belongs to the first: its activation, its rounding.
    """
    steps = Steps(network)
    moving = [node for node in steps.order if steps.moves(node) and node.op != "output"]
    narrow = _narrow(moving, steps)
    starts: dict[Node, list[Node]] = {}
    at, before = None, iter(moving)
    wanted = set(layers)
    for node in before:
        if node in wanted and at is not None:
            starts.setdefault(at, []).append(node)
        if node in narrow:
            at = node
    edges = [*starts, moving[-1]]
    return tuple(Segment(start, _between(moving, start, end), tuple(starts[start])) for start, end in pairwise(edges))


def _between(nodes: list[Node], start: Node, end: Node) -> tuple[Node, ...]:
    return tuple(nodes[nodes.index(start) + 1 : nodes.index(end) + 1])


def _narrow(moving: list[Node], steps: Steps) -> set[Node]:
    """Nodes behind which no other value is alive."""
    last = {node: max((steps.place[user] for user in node.users), default=-1) for node in moving}
    found, furthest = set(), -1
    for node in moving:
        if furthest <= steps.place[node]:
            found.add(node)
        furthest = max(furthest, last[node])
    return found
