"""Recurrent layers of one direction, and cells: the hidden width is a group of its own in each.

A removed unit has weights and biases of zero, so its new value is tanh(0) or relu(0), which is zero; what an LSTM's
cell or a GRU's unit carries on from a given state that is not zero stays non-zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.fx import Node

from trimtab.graph.axes import Axis, Dim, MisfitError, cut_right, size
from trimtab.graph.kept import Kept
from trimtab.graph.rules.contract import NOT_ZERO
from trimtab.graph.rules.table import rule
from trimtab.graph.values import Call, Value, atoms, axes_of, bind, set_argument

aten = torch.ops.aten


@dataclass(frozen=True)
class Weights:
    """Of one layer in one direction: [G·H, I], [G·H, R], biases [G·H], and [R, H] where the output is projected.

    H hidden units in G gates; R = H units recur unless they are projected.
    """

    ih: Value
    hh: Value
    biases: Sequence[Value]
    hr: Value | None = None

    def hidden(self) -> int:
        """H."""
        return size((self.hh if self.hr is None else self.hr).dims[1])

    def alive(self, hidden: Dim) -> set[Axis]:
        """Where the gates of a removed unit may be non-zero."""
        return _along((self.ih.along(0), self.hh.along(0), *self.biases), hidden)


@rule(aten.lstm.input)
def lstm(call: Call) -> list[Value]:
    """[T, N, I] or [N, T, I] with states [1, N, R] and [1, N, H] gives [T, N, R] and the last states."""
    _check_single(call)
    h, c = call.list("hx")
    x, batch = _input(call, [h, c])
    weights = _weights(call.list("params"), bool(call.raw("has_biases")))
    recurring, hidden, lasting = _lstm(call, x, (h, c), weights)
    return [
        Value((*x.dims[:2], recurring), {*lasting[0], *axes_of(x.dims[:2])}),
        Value(((), batch, recurring), {*lasting[0], *axes_of([batch])}),
        Value(((), batch, hidden), {*lasting[1], *axes_of([batch])}),
    ]


@rule(aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input)
def gru(call: Call) -> list[Value]:
    """[T, N, I] or [N, T, I] with a state [1, N, H] gives [T, N, H] and the last state."""
    _check_single(call)
    h = call.value("hx")
    x, batch = _input(call, [h])
    hidden, alive = _gru(call, x, h, _weights(call.list("params"), bool(call.raw("has_biases"))))
    return [
        Value((*x.dims[:2], hidden), {*alive, *axes_of(x.dims[:2])}),
        Value(((), batch, hidden), {*alive, *axes_of([batch])}),
    ]


@rule(aten.lstm_cell.default)
def lstm_cell(call: Call) -> list[Value]:
    """[N, I] with states [N, H] and [N, H] gives the next states."""
    x, (h, c) = call.value("input"), call.list("hx")
    _same_batch(call, x.dims[:-1], [h, c])
    _, hidden, lasting = _lstm(call, x, (h, c), _cell_weights(call))
    return [Value((*x.dims[:-1], hidden), {*alive, *axes_of(x.dims[:-1])}) for alive in lasting]


@rule(aten.gru_cell.default, aten.rnn_tanh_cell.default, aten.rnn_relu_cell.default)
def gru_cell(call: Call) -> Value:
    """[N, I] with a state [N, H] gives the next state."""
    x, h = call.value("input"), call.value("hx")
    _same_batch(call, x.dims[:-1], [h])
    hidden, alive = _gru(call, x, h, _cell_weights(call))
    return Value((*x.dims[:-1], hidden), {*alive, *axes_of(x.dims[:-1])})


def _check_single(call: Call) -> None:
    if call.integer("num_layers") != 1 or call.raw("bidirectional"):
        raise MisfitError("several layers or directions share one call")


def _input(call: Call, states: Sequence[Value]) -> tuple[Value, Dim]:
    """The input and its batch dimension; the states agree with it, and time keeps its steps."""
    x = call.value("input")
    time = 1 if call.raw("batch_first") else 0
    call.freeze([x.dims[time]], "a recurrence runs along this dimension")
    batch = x.dims[1 - time]
    _same_batch(call, [batch], [Value(state.dims[1:], state.alive) for state in states])
    return x, batch


def _same_batch(call: Call, batch: Sequence[Dim], states: Sequence[Value]) -> None:
    for state in states:
        for mine, theirs in zip(batch, state.dims[:-1], strict=True):
            call.unify(mine, theirs)


def _weights(params: Sequence[Value], has_biases: bool) -> Weights:
    ih, hh, *rest = params
    biases = rest[:2] if has_biases else []
    return Weights(ih, hh, biases, *rest[len(biases) :])


def _cell_weights(call: Call) -> Weights:
    biases = [value for name in ("b_ih", "b_hh") if (value := call.maybe(name)) is not None]
    return Weights(call.value("w_ih"), call.value("w_hh"), biases)


def _lstm(
    call: Call, x: Value, states: tuple[Value, Value], weights: Weights
) -> tuple[Dim, Dim, tuple[set[Axis], set[Axis]]]:
    """The recurring and the hidden dimension, and where output and cell may be non-zero."""
    h, c = states
    hidden = _gates(call, x, weights)
    call.unify(hidden, c.dims[-1])
    cell = weights.alive(hidden) | _along([c], hidden)
    if weights.hr is None:
        recurring, alive = hidden, cell
    else:
        recurring, alive = _projected(call, hidden, cell, weights.hr)
        _keep_wider(call, hidden, recurring)
    _recur(call, recurring, h, alive, weights)
    return recurring, hidden, (set(alive), set(cell))


def _gru(call: Call, x: Value, h: Value, weights: Weights) -> tuple[Dim, set[Axis]]:
    """The hidden dimension, and where the output may be non-zero; a plain cell forgets its own last value."""
    hidden = _gates(call, x, weights)
    call.unify(hidden, h.dims[-1])
    alive = weights.alive(hidden)
    if "gru" in call.operator:
        alive |= _along([h], hidden)
    _recur(call, hidden, h, alive, weights)
    return hidden, alive


def _gates(call: Call, x: Value, weights: Weights) -> Dim:
    """The hidden dimension that a layer makes, the same in all gates; inputs are summed."""
    units = weights.hidden()
    _, hidden = _split_gates(call, weights.ih, units)
    for value in (weights.hh, *weights.biases):
        call.unify(hidden, _split_gates(call, value, units)[1])
        call.role(value, 0, "out")
    call.unify(x.dims[-1], weights.ih.dims[1])
    call.contract(x.dims[-1], (x, weights.ih.along(1)), NOT_ZERO)
    call.role(weights.ih, 1, "in")
    _produce(call, weights.ih, hidden)
    return hidden


def _split_gates(call: Call, value: Value, units: int) -> tuple[Dim, Dim]:
    gates, hidden = cut_right(value.dims[0], units, call.why("gates do not fit the factors of the hidden units"))
    call.freeze([gates], "it counts gates")
    return gates, hidden


def _produce(call: Call, value: Value, made: Dim) -> None:
    """State that dimension 0 of a constant tensor makes the channels `made`, once in every gate."""
    call.role(value, 0, "out")
    if value.const:
        call.facts.produced.append((made, value.origin[0] if value.origin else None))


def _projected(call: Call, hidden: Dim, alive: set[Axis], hr: Value) -> tuple[Dim, set[Axis]]:
    call.unify(hidden, hr.dims[1])
    call.contract(hidden, (Value((hidden,), alive), hr.along(1)), NOT_ZERO)
    call.role(hr, 1, "in")
    _produce(call, hr, hr.dims[0])
    return hr.dims[0], _along([hr.along(0)], hr.dims[0])


def _keep_wider(call: Call, hidden: Dim, recurring: Dim) -> None:
    """Pin: torch takes a layer for projected only where it has more units than outputs, so units of zero fill it up."""

    def fix(node: Node, kept: Kept) -> None:
        missing = kept.size(recurring) + 1 - kept.size(hidden)
        if missing > 0:
            _fill_up(node, missing)

    call.fix(fix)


def _fill_up(node: Node, missing: int) -> None:
    """Append hidden units whose weights and states are zero: they stay zero."""
    graph, given = node.graph, bind(node)

    def pad(source: Node, *pads: int) -> Node:
        return graph.call_function(aten.constant_pad_nd.default, (source, [*pads, 0, missing], 0.0))

    def pad_gates(source: Node, *pads: int) -> Node:
        gates = graph.call_function(aten.unflatten.int, (source, 0, [4, -1]))
        return graph.call_function(aten.flatten.using_ints, (pad(gates, *pads), 0, 1))

    with graph.inserting_before(node):
        h, c = given["hx"]
        *gates, hr = given["params"]
        weights, biases = gates[:2], gates[2:]
        padded = [*(pad_gates(w, 0, 0) for w in weights), *(pad_gates(b) for b in biases), pad(hr)]
        set_argument(node, "hx", [h, pad(c)])
        set_argument(node, "params", padded)
    for item in list(node.users):
        if item.args[1] == 2:
            _drop_last(item, missing)


def _drop_last(item: Node, missing: int) -> None:
    with item.graph.inserting_after(item):
        left = item.graph.call_function(aten.slice.Tensor, (item, 2, 0, -missing))
    item.replace_all_uses_with(left, delete_user_cb=lambda user: user is not left)


def _recur(call: Call, recurring: Dim, h: Value, alive: set[Axis], weights: Weights) -> None:
    """What was put out comes in again."""
    call.unify(recurring, h.dims[-1])
    call.unify(recurring, weights.hh.dims[1])
    call.contract(recurring, (Value((recurring,), alive | _along([h], recurring)), weights.hh.along(1)), NOT_ZERO)
    call.role(weights.hh, 1, "in")


def _along(values: Sequence[Value], dim: Dim) -> set[Axis]:
    return set().union(*(atoms(value.alive) for value in values)) & axes_of([dim])
