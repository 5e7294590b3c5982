"""Where a parameter is multiplied with the channels of a value: what a weight reads."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from trimtab.graph import Network, ParamDim
from trimtab.graph.analysis import attribute, tensor_names
from trimtab.graph.layers import parameter_of
from trimtab.graph.values import bind
from trimtab.stats.observe import Look

aten = torch.ops.aten


@dataclass(frozen=True, kw_only=True)
class Reading:
    """At `node`, dimension `dim` of `parameter` meets dimension `channels` of the value that `value` picks.

    `value` takes the node's arguments by name and its result; `channels` counts from its end; `like` names a node whose
    dimensions are the value's. Of a convolution in `parts` groups the parameter's dimension has a `parts`-th of the
    channels, and each group reads its own.
    """

    node: str
    parameter: str
    dim: int
    channels: int
    parts: int
    value: Callable[[dict[str, Any], Any], Tensor]
    like: str


def find_readings(network: Network) -> tuple[Reading, ...]:
    """Every reading of a parameter by a convolution, a linear, a matrix product or a recurrent operator.

    Weights that the graph computes, and other operators, are not among them.
    """
    names = tensor_names(network.module)
    found: list[Reading] = []
    for node in network.module.graph.nodes:
        reads = _READERS[node.target](node) if node.op == "call_function" and node.target in _READERS else ()
        for weight, dim, channels, parts, like, value in reads:
            parameter = parameter_of(network.module, weight, names)
            if parameter is not None:
                found.append(
                    Reading(
                        node=node.name,
                        parameter=parameter,
                        dim=dim % attribute(network.module, parameter).dim(),
                        channels=channels,
                        parts=parts,
                        value=value,
                        like=like.name,
                    )
                )
    return tuple(found)


def mean_by_unit(network: Network, by_channel: Mapping[Reading, Tensor]) -> dict[str, Tensor]:
    """Numbers of the read channels as means over each unit's channels and over the readings of its group. [width]

    Groups that no reading sees are left out.
    """
    out: dict[str, Tensor] = {}
    for group in network.groups:
        means = []
        for reading, values in by_channel.items():
            member = ParamDim(parameter=reading.parameter, dim=reading.dim, role="in")
            if member in group.members:
                units = network.units(group, member).repeat(reading.parts)
                here, zeros = units >= 0, torch.zeros(group.width, dtype=torch.float64)
                total = zeros.index_add(0, units[here], values.double().cpu()[here])
                means.append(total / torch.bincount(units[here], minlength=group.width))
        if means:
            out[group.name] = torch.stack(means).mean(0)
    return out


def looks(readings: Sequence[Reading], see: Callable[[Reading, Tensor], None]) -> dict[str, Look]:
    """What `observe` calls so that `see` is shown every reading with its value."""
    by_node: dict[str, list[Reading]] = {}
    for reading in readings:
        by_node.setdefault(reading.node, []).append(reading)

    def look(here: list[Reading], given: dict[str, Any], result: Any) -> None:
        for reading in here:
            see(reading, reading.value(given, result))

    return {node: partial(look, here) for node, here in by_node.items()}


def as_entries(reading: Reading, weight: Tensor, by_channel: Tensor) -> Tensor:
    """Numbers of the value's channels, laid out so that they broadcast to the parameter's entries that read them."""
    rows = by_channel.view(reading.parts, -1)
    shape = [1] * weight.dim()
    shape[reading.dim] = weight.shape[reading.dim]
    if reading.parts == 1:
        return rows.view(shape)
    shape[0] = weight.shape[0]
    return rows.repeat_interleave(weight.shape[0] // reading.parts, 0).view(shape)


_Found = tuple[Any, int, int, int, Node, Callable[[dict[str, Any], Any], Tensor]]
"""Weight's node, its dimension, the value's dimension, groups, a node like the value, and how to pick the value."""


def _argument(name: str, item: int | None = None) -> Callable[[dict[str, Any], Any], Tensor]:
    return lambda given, result: given[name] if item is None else given[name][item]


def _convolution(node: Node) -> Iterator[_Found]:
    given = bind(node)
    rank = given["weight"].meta["val"].dim()
    yield given["weight"], 1, 1 - rank, given["groups"], given["input"], _argument("input")


def _transposed(node: Node) -> Iterator[_Found]:
    given = bind(node)
    rank = given["weight"].meta["val"].dim()
    yield given["weight"], 0, 1 - rank, 1, given["input"], _argument("input")


def _linear(node: Node) -> Iterator[_Found]:
    given = bind(node)
    yield given["weight"], -1, -1, 1, given["input"], _argument("input")


def _product(first: str, second: str) -> Callable[[Node], Iterator[_Found]]:
    def read(node: Node) -> Iterator[_Found]:
        a, b = bind(node)[first], bind(node)[second]
        inner = -2 if b.meta["val"].dim() > 1 else -1
        yield b, inner, -1, 1, a, _argument(first)
        yield a, -1, inner, 1, b, _argument(second)

    return read


def _recurrent(node: Node) -> Iterator[_Found]:
    """One layer in one direction: the state that comes in is what was put out a step before."""
    given = bind(node)
    yield given["params"][0], 1, -1, 1, given["input"], _argument("input")
    yield given["params"][1], 1, -1, 1, given["input"], lambda given, result: result[0]


def _cell(node: Node) -> Iterator[_Found]:
    given = bind(node)
    stacked = isinstance(given["hx"], (list, tuple))
    state = given["hx"][0] if stacked else given["hx"]
    yield given["w_ih"], 1, -1, 1, given["input"], _argument("input")
    yield given["w_hh"], 1, -1, 1, state, _argument("hx", 0 if stacked else None)


_READERS: dict[Any, Callable[[Node], Iterator[_Found]]] = {
    aten.conv1d.default: _convolution,
    aten.conv2d.default: _convolution,
    aten.conv3d.default: _convolution,
    aten.conv1d.padding: _convolution,
    aten.conv2d.padding: _convolution,
    aten.conv3d.padding: _convolution,
    aten.conv_transpose1d.default: _transposed,
    aten.conv_transpose2d.input: _transposed,
    aten.conv_transpose3d.input: _transposed,
    aten.linear.default: _linear,
    aten.matmul.default: _product("self", "other"),
    aten.mm.default: _product("self", "mat2"),
    aten.bmm.default: _product("self", "mat2"),
    aten.addmm.default: _product("mat1", "mat2"),
    aten.lstm.input: _recurrent,
    aten.gru.input: _recurrent,
    aten.rnn_tanh.input: _recurrent,
    aten.rnn_relu.input: _recurrent,
    aten.lstm_cell.default: _cell,
    aten.gru_cell.default: _cell,
    aten.rnn_tanh_cell.default: _cell,
    aten.rnn_relu_cell.default: _cell,
}
