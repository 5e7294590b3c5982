"""A graph run over several batches at once, one node after the other, so that what is ahead can still be changed."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import fx
from torch.fx import Node
from torch.utils import _pytree as pytree

from trimtab.graph import Network
from trimtab.quant import ActivationFakeQuantize
from trimtab.stats.observe import positional
from trimtab.tasks.task import Inputs


class Steps:
    """Runs single nodes of a graph on given values. What depends on no input is computed where it is read, not before:
    weights may change until then.
    """

    def __init__(self, network: Network) -> None:
        self.order = list(network.module.graph.nodes)
        self.place = {node: at for at, node in enumerate(self.order)}
        self._interpreter = fx.Interpreter(network.module)
        self._moving: set[Node] = set()
        for node in self.order:
            if node.op == "placeholder" or any(read in self._moving for read in node.all_input_nodes):
                self._moving.add(node)

    def moves(self, node: Node) -> bool:
        """Whether a node depends on the network's inputs."""
        return node in self._moving

    def constants(self, node: Node) -> dict[Node, Any]:
        """The values of what a node reads that depends on no input, and of what that was computed from."""
        found: dict[Node, Any] = {}
        for read in node.all_input_nodes:
            if read not in self._moving:
                found |= self.constants(read)
                self._interpreter.env = found
                found[read] = self._interpreter.run_node(read)
        return found

    def constant(self, node: Node) -> Any:
        """The value of a node that depends on no input."""
        self._interpreter.env = self.constants(node)
        return self._interpreter.run_node(node)

    def run(self, node: Node, values: dict[Node, Any]) -> Any:
        """The value of a node where those that it reads are given."""
        self._interpreter.env = values
        return self._interpreter.run_node(node)

    def through(self, nodes: Iterable[Node], values: dict[Node, Any]) -> Iterator[tuple[Node, Any]]:
        """Run `nodes` in order, from `values` of what they read; gives each value as soon as it is there."""
        values = dict(values)
        for node in nodes:
            values[node] = self.run(node, values | self.constants(node))
            yield node, values[node]


class Stepwise:
    """Runs `network` up to a node that is named, and remembers what is still to be read: for all batches together.

    `held` are nodes whose values are kept until `take` has asked for them (as often as they are named there), however
    far the graph has run. Where activations
    are rounded, the range is calibrated on all batches as soon as they are there.
    """

    def __init__(self, network: Network, batches: Sequence[Inputs], held: Iterable[Node] = ()) -> None:
        self.steps = Steps(network)
        self.network = network
        self._at = 0
        self._asked = Counter(held)
        self._held: dict[Node, list[Any]] = {}
        self._last_reads = {
            node: max((self.steps.place[user] for user in node.users), default=-1) for node in self.steps.order
        }
        inputs = [node for node in self.steps.order if node.op == "placeholder"]
        self._values: list[dict[Node, Any]] = [
            dict(zip(inputs, positional(network, batch), strict=True)) for batch in batches
        ]
        for node in inputs:
            self._hold(node)

    @torch.no_grad()
    def run_to(self, node: Node, *, inclusive: bool) -> None:
        """Run what stands before `node`, and `node` too when `inclusive`."""
        stop = self.steps.place[node] + inclusive
        for at in range(self._at, stop):
            step = self.steps.order[at]
            if self.steps.moves(step) and step.op not in {"placeholder", "output"}:
                self._run(step)
            self._forget(at)
        self._at = max(self._at, stop)

    def values(self, node: Node) -> list[Any]:
        """The value of `node` on every batch, while something ahead still reads it."""
        return [values[node] for values in self._values]

    def take(self, node: Node) -> list[Any]:
        """The values of a held node, run up to it if need be; they are dropped when it is asked for the last time."""
        if not self.steps.moves(node):
            return [self.steps.constant(node)] * len(self._values)
        self.run_to(node, inclusive=True)
        self._asked[node] -= 1
        return self._held[node] if self._asked[node] else self._held.pop(node)

    def _run(self, node: Node) -> None:
        if node.op == "call_module":
            self._calibrate(node)
        constants = self.steps.constants(node)
        for values in self._values:
            values[node] = self.steps.run(node, values | constants)
        self._hold(node)

    def _calibrate(self, node: Node) -> None:
        """Fit the range of the activation that a node rounds, if it does."""
        site = self.network.module.get_submodule(str(node.target))
        if isinstance(site, ActivationFakeQuantize):
            site.observe()
            for values in self._values:
                site(values[node.all_input_nodes[0]])
            site.fit()

    def _hold(self, node: Node) -> None:
        if self._asked[node]:
            overwritten = any(_writes(user) for user in node.users)
            self._held[node] = [value.clone() if overwritten else value for value in self.values(node)]

    def _forget(self, at: int) -> None:
        """Drop what the node at this place was the last to read."""
        node = self.steps.order[at]
        done = [n for n in (node, *node.all_input_nodes) if self._last_reads[n] <= at]
        for values in self._values:
            for read in done:
                values.pop(read, None)


def _writes(node: Node) -> bool:
    """Whether an operator writes into what it reads."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def bytes_a_row(network: Network) -> int:
    """The most that the values of one row take at any place of the graph, each dropped behind its last reader."""
    order = list(network.module.graph.nodes)
    rows = next(int(node.meta["val"].shape[0]) for node in order if node.op == "placeholder")
    place = {node: at for at, node in enumerate(order)}
    last = {node: max((place[user] for user in node.users), default=-1) for node in order}
    sizes = {
        node: sum(
            int(v.numel()) * v.element_size() for v in pytree.tree_leaves(node.meta.get("val")) if torch.is_tensor(v)
        )
        for node in order
        if node.op not in {"get_attr", "output"}
    }
    live = most = 0
    for at, node in enumerate(order):
        live += sizes.get(node, 0)
        most = max(most, live)
        live -= sum(sizes.get(read, 0) for read in {node, *node.all_input_nodes} if last[read] <= at)
    return max(1, most // rows)
