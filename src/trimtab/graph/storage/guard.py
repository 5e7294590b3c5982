"""A dry run of a graph that came from a file: every node on fake tensors, within limits, before anything is computed.

Fake tensors cost nothing however large they say they are; what does cost is integers that grow, operators that return
a piece for every position, and recurrent operators, which are unrolled. Those are looked at before they run.
"""

import operator
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Node
from torch.utils import _pytree as pytree

from trimtab.errors import ConfigError
from trimtab.graph.values import bind

MOST_INTEGER = 2**63 - 1
"""The largest integer that a tensor's size can have."""

MOST_NUMBERS = 2**40
"""Of one value in the graph, on the example."""

MOST_PIECES = 8192
"""Tensors that one operator returns."""

MOST_STEPS = 4096
"""Of a recurrent operator."""

_RECURRENT = ("aten::lstm", "aten::gru", "aten::rnn_tanh", "aten::rnn_relu")


def dry_run(module: fx.GraphModule, example: Any) -> None:
    """Run `module` on fake copies of the leaves of `example`. Raises: ConfigError that names the node and the limit."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        inputs = [mode.from_tensor(leaf, static_shapes=True) for leaf in pytree.tree_leaves(example)]
        _Guarded(module).run(*inputs, enable_io_processing=False)


class _Guarded(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.extra_traceback = False  # it would write the graph into the message

    def run_node(self, n: Node) -> Any:
        if n.op == "call_function":
            self._check_call(n)
        try:
            found = super().run_node(n)
        except Exception as error:  # torch's operators run on what the file says: anything may come
            reason = next(iter(str(error).splitlines()), "")[:200]
            raise ConfigError(
                f"{_place(n)}: cannot run on the example: {type(error).__name__}: {reason}; save the network again"
            ) from error
        if n.op != "output":
            self._check_result(n, found)
        return found

    def _check_call(self, node: Node) -> None:
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            _check_numbers(node, self.map_nodes_to_values(node.args, node))
            return
        given: Any = self.map_nodes_to_values(bind(node), node)
        if any("[]" in str(out.type) or "List" in str(out.type) for out in schema.returns):
            _within(node, _pieces(given), MOST_PIECES, "tensors that it returns")
        if schema.name.startswith(_RECURRENT):
            shape = given["input"].shape if isinstance(given.get("input"), Tensor) else (0,)
            _within(node, max(shape), MOST_STEPS, "steps, rows and features of its input")

    def _check_result(self, node: Node, found: Any) -> None:
        for leaf in pytree.tree_leaves(found):
            if isinstance(leaf, Tensor):
                _within(node, leaf.numel(), MOST_NUMBERS, "numbers of its output")
            elif isinstance(leaf, int):
                _within(node, abs(leaf), MOST_INTEGER, "its integer")


def _check_numbers(node: Node, values: Any) -> None:
    """Python's own operators take numbers; one of several outputs is picked by a number."""
    if node.target is operator.getitem:
        fine = len(values) == 2 and isinstance(values[0], (list, tuple)) and isinstance(values[1], int)
    else:
        fine = all(isinstance(value, (int, float)) for value in values)
    if not fine:
        kinds = ", ".join(type(value).__name__ for value in values)
        raise ConfigError(f"{_place(node)}: it takes numbers, got {kinds}; save the network again")
    for value in values:
        if isinstance(value, int):
            _within(node, abs(value), MOST_INTEGER, "its integer")


def _pieces(given: dict[str, Any]) -> int:
    """How many tensors an operator may return at most."""
    tensors = [leaf for leaf in pytree.tree_leaves(list(given.values())) if isinstance(leaf, Tensor)]
    longest = max((max(tensor.shape, default=1) for tensor in tensors), default=1)
    first = given.get("self")
    if isinstance(first, Tensor) and isinstance(given.get("dim"), int) and first.dim():
        longest = first.shape[given["dim"] % first.dim()]
    together = given.get("tensors", first)
    if isinstance(together, (list, tuple)):
        return len(together)
    sizes = given.get("split_size", given.get("split_sizes"))
    if isinstance(sizes, int):
        return -(-longest // max(sizes, 1))
    if isinstance(sizes, (list, tuple)):
        return len(sizes)
    count = given.get("sections", given.get("chunks"))
    return count if isinstance(count, int) else longest


def _within(node: Node, came: int, most: int, what: str) -> None:
    if came > most:
        shown = came if came < 10**18 else f"about 2^{came.bit_length()}"
        raise ConfigError(f"{_place(node)}: {what} are at most {most}, got {shown}; save the network again")


def _place(node: Node) -> str:
    target = node.target
    name = target if isinstance(target, str) or hasattr(target, "_schema") else f"operator.{target.__name__}"
    return f"node {node.name!r} ({name})"
