"""Run a network node by node: gates on what its branches add, and a look at the values that operators read."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, fx
from torch.fx import Node

from trimtab.graph import Branch, Network
from trimtab.tasks.task import Inputs

Look = Callable[[dict[str, Any], Any], None]
"""Shown the arguments of a node, by the names of its operator's schema, and its result."""


class _Observed(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, looks: Mapping[str, Look], gates: Mapping[str, tuple[str, Tensor]]):
        super().__init__(module)
        self.looks, self.gates = looks, gates

    def run_node(self, n: Node) -> Any:
        if n.name not in self.looks and n.name not in self.gates:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n.name in self.gates:
            args, kwargs = _gated(args, kwargs, *self.gates[n.name])
        result = getattr(self, n.op)(n.target, args, kwargs)
        if n.name in self.looks:
            names = [argument.name for argument in n.target._schema.arguments]  # type: ignore[union-attr]
            self.looks[n.name](dict(zip(names, args, strict=False)) | kwargs, result)
        return result


def _gated(args: Any, kwargs: Any, operand: str, gate: Tensor) -> tuple[Any, Any]:
    if operand in kwargs:
        return args, kwargs | {operand: kwargs[operand] * gate}
    at = ("self", "other").index(operand)
    return (*args[:at], args[at] * gate, *args[at + 1 :]), kwargs


def observe(
    network: Network,
    inputs: Inputs,
    *,
    looks: Mapping[str, Look] | None = None,
    gates: Mapping[Branch, Tensor] | None = None,
) -> Any:
    """The network's outputs for one batch.

    `looks` maps names of nodes to what is called when they have run. `gates` multiplies what each branch adds by a
    number, whose gradient is then the branch's.
    """
    by_node = {branch.node: (branch.operand, gate) for branch, gate in (gates or {}).items()}
    run = _Observed(network.module, looks or {}, by_node)
    outputs = run.run(*positional(network, inputs), enable_io_processing=False)
    return network.module.graph.process_outputs(outputs)


def positional(network: Network, inputs: Inputs) -> tuple[Tensor, ...]:
    """The tensors of one batch in the order of the graph's inputs, which is that of the network's example."""
    if isinstance(inputs, dict):
        assert isinstance(network.example, dict)
        return tuple(inputs[name] for name in network.example)
    return tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
