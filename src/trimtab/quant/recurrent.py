"""LSTM and GRU with integer matrices: what the runtime computes, as operators of a folded graph.

The input is rounded once over all steps, the hidden state at every step, both to a range found then. Gates are in
ONNX's order: an LSTM's input, output, forget, cell; a GRU's update, reset, new.
"""

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from trimtab.graph.copying import described
from trimtab.graph.values import bind
from trimtab.quant.dynamic import dynamic_range
from trimtab.quant.ops import DEQUANTIZE, DYNAMIC_QUANTIZE

aten = torch.ops.aten

_GATES: dict[object, tuple[int, ...]] = {aten.lstm.input: (0, 3, 1, 2), aten.gru.input: (1, 0, 2)}
"""ONNX's order of gates in torch's."""


@torch.library.custom_op("trimtab::lstm", mutates_args=())
def lstm(
    x: Tensor, h: Tensor, c: Tensor, w: Tensor, w_scale: Tensor, r: Tensor, r_scale: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Output [steps, rows, width] and the final states [1, rows, width] of one layer in one direction.

    `w`, `r`: int8 matrices [4·width, inputs] and [4·width, width] with a scale a row; `bias` [8·width], of both.
    """
    given = _product(x, w, w_scale)
    both = bias.view(2, -1).sum(0)
    state, cell, steps = h[0], c[0], []
    for step in given:
        gates = step + _product(state, r, r_scale) + both
        i, o, f, new = gates.chunk(4, -1)
        cell = f.sigmoid() * cell + i.sigmoid() * new.tanh()
        state = o.sigmoid() * cell.tanh()
        steps.append(state)
    return torch.stack(steps), state[None].clone(), cell[None].clone()


@torch.library.custom_op("trimtab::gru", mutates_args=())
def gru(
    x: Tensor, h: Tensor, w: Tensor, w_scale: Tensor, r: Tensor, r_scale: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Output [steps, rows, width] and the final state [1, rows, width]; matrices as in `lstm`, `bias` [6·width]."""
    of_input, of_state = bias.chunk(2)
    given = _product(x, w, w_scale) + of_input
    state, steps = h[0], []
    for step in given:
        own = _product(state, r, r_scale) + of_state
        z, reset, new = step.chunk(3, -1)
        z_own, reset_own, new_own = own.chunk(3, -1)
        z, reset = (z + z_own).sigmoid(), (reset + reset_own).sigmoid()
        candidate = (new + reset * new_own).tanh()
        state = candidate + z * (state - candidate)
        steps.append(state)
    return torch.stack(steps), state[None].clone()


@lstm.register_fake
def _(
    x: Tensor, h: Tensor, c: Tensor, w: Tensor, w_scale: Tensor, r: Tensor, r_scale: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty((x.shape[0], x.shape[1], r.shape[1])), torch.empty_like(h), torch.empty_like(c)


@gru.register_fake
def _(
    x: Tensor, h: Tensor, w: Tensor, w_scale: Tensor, r: Tensor, r_scale: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    return x.new_empty((x.shape[0], x.shape[1], r.shape[1])), torch.empty_like(h)


LSTM = torch.ops.trimtab.lstm.default
GRU = torch.ops.trimtab.gru.default
_OPERATORS: dict[object, Any] = {aten.lstm.input: LSTM, aten.gru.input: GRU}


def _product(x: Tensor, matrix: Tensor, scale: Tensor) -> Tensor:
    """x · matrixᵀ with x rounded to its own range: integers are multiplied, and the scales come after."""
    step, zero_point = dynamic_range(x)
    codes = ((x / step).round() + zero_point).clamp(0, 255) - zero_point
    return (codes.double() @ matrix.double().T).float() * (step * scale)


def integer_recurrent(module: GraphModule) -> None:
    """Recurrent layers whose input and both matrices are integers become one operator, in place."""
    for node in list(module.graph.nodes):
        if node.target in _OPERATORS:
            _rewrite(module, node)


def _rewrite(module: GraphModule, node: Node) -> None:
    given = bind(node)
    params: list[Any] = list(given["params"])
    x, matrices = given["input"], params[:2]
    biased = bool(given["has_biases"])
    if len(params) != 2 + 2 * biased or not all(part.target == DEQUANTIZE for part in (x, *matrices)):
        return
    found = x.args[0].args[0] if isinstance(x.args[0], Node) and x.args[0].args else None
    if not isinstance(found, Node) or found.target != DYNAMIC_QUANTIZE:
        return
    order = _GATES[node.target]
    parts = [_reordered(_read(module, value), order) for part in matrices for value in part.args[:2]]
    if any(part.dtype != torch.int8 for part in parts[::2]):
        return
    width = parts[2].shape[1]
    biases = [_read(module, value) for value in params[2:]] if biased else [torch.zeros(len(order) * width)] * 2
    parts.append(torch.cat([_reordered(bias, order) for bias in biases]))
    states = given["hx"] if isinstance(given["hx"], (list, tuple)) else [given["hx"]]
    with module.graph.inserting_before(node):
        constants = []
        for i, part in enumerate(parts):
            name = f"recurrent_{node.name}_{i}"
            module.register_buffer(name, part)
            constants.append(module.graph.get_attr(name))
        x = found.args[0]
        if given["batch_first"]:
            x = module.graph.call_function(aten.transpose.int, (x, 0, 1))
        new = module.graph.call_function(_OPERATORS[node.target], (x, *states, *constants))
    new.meta = dict(node.meta)
    if given["batch_first"]:
        _rows_first(module, node)
    node.replace_all_uses_with(new)
    module.graph.erase_node(node)


def _rows_first(module: GraphModule, node: Node) -> None:
    """Transpose the output of all steps back."""
    for output in [user for user in node.users if user.args[1] == 0]:
        readers = list(output.users)
        with module.graph.inserting_after(output):
            turned = module.graph.call_function(aten.transpose.int, (output, 0, 1))
        turned.meta = described(output)
        for reader in readers:
            reader.replace_input_with(output, turned)


def _reordered(rows: Tensor, order: tuple[int, ...]) -> Tensor:
    blocks = rows.detach().chunk(len(order))
    return torch.cat([blocks[i] for i in order]).contiguous()


def _read(module: GraphModule, value: Any) -> Tensor:
    owner, _, leaf = str(value.target).rpartition(".")
    tensor: Tensor = getattr(module.get_submodule(owner), leaf)
    return tensor
