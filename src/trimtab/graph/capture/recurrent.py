"""Recurrent stacks are written as one call for every layer and direction, so that each has a width of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import getitem
from typing import Any

import torch
from torch import fx
from torch.fx import Node

from trimtab.graph.values import bind, set_argument

aten = torch.ops.aten

STACKS = {aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input}

_FILLED = {
    aten.zeros.default,
    aten.ones.default,
    aten.full.default,
    aten.new_zeros.default,
    aten.new_ones.default,
    aten.new_full.default,
}
_SAME = {aten.to.dtype, aten.to.device, aten.to.dtype_layout, aten.detach.default, aten.detach_.default}
_SAME |= {aten.clone.default, aten.contiguous.default, aten._to_copy.default}


def unstack_recurrent(module: fx.GraphModule) -> None:
    """Write every call of several layers or directions as calls of one; it computes what it computed.

    Time comes first throughout, as it does inside of torch's own, so that dropout draws the same numbers. The reverse
    direction reads its input flipped, and its output is flipped back. Initial states made of one number are
    made anew for every call, others are sliced; a final state that is read alone is read from its own call.
    """
    stacked: dict[Node, list[Node]] = {}
    for node in list(module.graph.nodes):
        if node.target in STACKS and (bind(node)["num_layers"] > 1 or bind(node)["bidirectional"]):
            _Stack(node, stacked).write()
    for node in stacked:
        if not node.users:
            module.graph.erase_node(node)
    module.graph.lint()
    module.recompile()


@dataclass
class _Stack:
    """One call that is written anew. `stacked` maps concatenations of final states, of all calls, to their parts."""

    node: Node
    stacked: dict[Node, list[Node]]
    finals: list[list[Node]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.arguments = bind(self.node)
        self.layers = int(self.arguments["num_layers"])
        self.directions = 1 + bool(self.arguments["bidirectional"])
        hx = self.arguments["hx"]
        self.states: list[Node] = list(hx) if isinstance(hx, (list, tuple)) else [hx]

    def write(self) -> None:
        self.finals = [[] for _ in self.states]
        batch_first = self.arguments["batch_first"]
        with self.node.graph.inserting_before(self.node):
            x = self.arguments["input"]
            x = self._call(aten.transpose.int, x, 0, 1) if batch_first else x
            for layer in range(self.layers):
                outputs = [self._one(x, layer, direction) for direction in range(self.directions)]
                x = outputs[0] if len(outputs) == 1 else self._call(aten.cat.default, outputs, 2)
                if self.arguments["dropout"] and layer < self.layers - 1:
                    x = self._call(aten.dropout.default, x, self.arguments["dropout"], self.arguments["train"])
            x = self._call(aten.transpose.int, x, 0, 1) if batch_first else x
        for user in list(self.node.users):
            assert user.target is getitem
            which = int(user.args[1])  # type: ignore[arg-type]
            if which == 0:
                user.replace_all_uses_with(x)
            else:
                self._hand_out(user, self.finals[which - 1])
            self.node.graph.erase_node(user)
        self.node.graph.erase_node(self.node)
        for state in self.states:
            _erase_unused(state)

    def _one(self, x: Node, layer: int, direction: int) -> Node:
        """One layer in one direction; its output in the order of time, its final states to `finals`."""
        given = self.arguments
        k = layer * self.directions + direction
        count = len(given["params"]) // (self.layers * self.directions)
        states = [self._initial(state, k) for state in self.states]
        hx = states if isinstance(given["hx"], (list, tuple)) else states[0]
        weights = list(given["params"][k * count : (k + 1) * count])
        x = self._call(aten.flip.default, x, [0]) if direction else x
        rest = (given["has_biases"], 1, 0.0, given["train"], False, False)
        run = self._call(self.node.target, x, hx, weights, *rest)
        output = self._call(getitem, run, 0)
        for i, parts in enumerate(self.finals):
            parts.append(self._call(getitem, run, i + 1))
        return self._call(aten.flip.default, output, [0]) if direction else output

    def _initial(self, state: Node, k: int) -> Node:
        """The state [1, N, H] of the k-th call from [calls, N, H]."""
        if state in self.stacked:
            return self.stacked[state][k]
        if _is_filled(state):
            return self._filled(state)
        return self._call(aten.slice.Tensor, state, 0, k, k + 1)

    def _filled(self, state: Node) -> Node:
        """A state of one number again, for one call."""
        if state.target in _FILLED:
            new = self.node.graph.node_copy(state)
            set_argument(new, "size", [1, *bind(new)["size"][1:]])
            return new
        source = self._filled(state.all_input_nodes[0])
        return self.node.graph.node_copy(state, lambda _: source)

    def _hand_out(self, source: Node, parts: Sequence[Node]) -> None:
        """Give the users of `source`, which holds the final states `parts`, what they read of it."""
        if not _is_written(source):
            for user in list(source.users):
                self._hand_to(user, parts)
        if not source.users:
            return
        with source.graph.inserting_before(source):
            whole = parts[0] if len(parts) == 1 else self._call(aten.cat.default, list(parts), 0)
        if len(parts) > 1:
            self.stacked[whole] = list(parts)
        source.replace_all_uses_with(whole)

    def _hand_to(self, user: Node, parts: Sequence[Node]) -> None:
        given = bind(user)
        if given.get("dim") != 0:
            return
        if user.target is aten.select.int and isinstance(given["index"], int):
            user.args, user.kwargs = (parts[given["index"]], 0, 0), {}
        elif user.target is aten.slice.Tensor and all(isinstance(given[n], int | None) for n in ("start", "end")):
            self._hand_out(user, parts[given["start"] : given["end"] : given["step"]])
            user.graph.erase_node(user)
        elif user.target is aten.unbind.int:
            for item in list(user.users):
                item.target, item.args, item.kwargs = aten.select.int, (parts[item.args[1]], 0, 0), {}  # type: ignore[index]
            user.graph.erase_node(user)

    def _call(self, target: Any, *args: Any) -> Node:
        """A node that comes from the same line of the user's code."""
        new = self.node.graph.call_function(target, args)
        new.meta = {name: value for name, value in self.node.meta.items() if name not in {"val", "tensor_meta"}}
        return new


def _is_filled(state: Node) -> bool:
    """Whether a state [calls, N, H] is made of one number, and nothing writes into it or looks at it through a view."""
    if any(user.target not in STACKS | _SAME | {aten.sym_size.int} for user in state.users):
        return False
    if state.target in _SAME:
        return len(state.all_input_nodes) == 1 and _is_filled(state.all_input_nodes[0])
    return state.target in _FILLED and isinstance(bind(state)["size"][0], int)


def _is_written(node: Node) -> bool:
    """Whether an operator changes a value in place, directly or through a view of it."""
    for user in node.users:
        schema = getattr(user.target, "_schema", None)
        if schema is None:
            continue
        if any(argument.alias_info is not None and argument.alias_info.is_write for argument in schema.arguments):
            return True
        views = any(result.alias_info is not None for result in schema.returns) or user.target is aten.dropout.default
        if views and _is_written(user):
            return True
    return False


def _erase_unused(node: Node) -> None:
    """Erase a state that nothing reads any more, and what it was made of."""
    if node.users or node.target not in _FILLED | _SAME:
        return
    sources = node.all_input_nodes
    node.graph.erase_node(node)
    for source in sources:
        _erase_unused(source)
