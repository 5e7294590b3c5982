"""Recurrent layers, solved like others: ahead of the nonlinearity, gates are linear in what comes in and comes back.

What comes back depends on the weights themselves. It is taken as the original puts it out, in the units that are left:
with what the compressed layer puts out so far in its place, one step's errors become the next step's targets, and the
solution runs away.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Node

from trimtab.graph import Network
from trimtab.graph.analysis import attribute, tensor_names
from trimtab.graph.kept import Kept
from trimtab.graph.layers import parameter_of
from trimtab.graph.values import bind
from trimtab.plan import LayerDecision
from trimtab.quant import WeightFakeQuantize
from trimtab.recover.layerwise import SOLVING, Problem, damping_for, gathered_in_halves, solve_weight
from trimtab.recover.rounding import rounding_of
from trimtab.recover.stepwise import Stepwise
from trimtab.solve import pieces_of
from trimtab.stats.layer_rows import SAMPLES

aten = torch.ops.aten

_OPERATORS = {aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input}


@dataclass(frozen=True)
class _Matrix:
    """Names of a weight [gates · units, inputs] and of its bias; `dense` and `decision` as of any other layer."""

    name: str
    bias: str | None
    dense: Tensor
    decision: LayerDecision
    rounding: WeightFakeQuantize | None


@dataclass(frozen=True)
class Recurrence:
    """A recurrent layer of one direction in both networks, and which rows of the original's matrices are left."""

    here: Node
    there: Node
    kept: Tensor
    first: _Matrix
    back: _Matrix

    @property
    def told(self) -> list[Node]:
        """What has to be known of the original: what comes in, the initial state, what goes out."""
        return [bind(self.there)["input"], _initial(self.there), self.there]


def recurrences(
    result: Network,
    original: Network,
    kept: Kept,
    dense: Mapping[str, Tensor],
    decisions: Mapping[str, LayerDecision],
) -> list[Recurrence]:
    """Every recurrent layer whose matrices are parameters, read once, and whose units come back as they are."""
    names, nodes = tensor_names(result.module), {node.name: node for node in original.module.graph.nodes}
    calls = [node for node in result.module.graph.nodes if node.target in _OPERATORS]
    weights = {node: [parameter_of(result.module, each, names) for each in _parameters(node)[::2]] for node in calls}
    read = Counter(name for pair in weights.values() for name in pair)
    found = []
    for node, pair in weights.items():
        if None in pair or any(read[name] > 1 for name in pair) or _projects(node):
            continue
        both = []
        given = _parameters(node)
        for name, weight, bias in zip(pair, given[::2], given[1::2], strict=True):
            assert name is not None
            parameter = attribute(result.module, name)
            both.append(
                _Matrix(
                    name=name,
                    bias=parameter_of(result.module, bias, names),
                    dense=dense.get(name, parameter.detach().clone()),
                    decision=decisions.get(name, LayerDecision(layer=name)),
                    rounding=rounding_of(result.module, weight),
                )
            )
        found.append(Recurrence(node, nodes[node.name], kept.positions(original.dims(both[0].name)[0]), *both))
    return found


@torch.no_grad()
def solve_recurrence(
    it: Recurrence, result: Network, here: Stepwise, there: Stepwise, *, thins: bool, seed: int
) -> None:
    """Set both matrices and biases, so that the gates of the compressed layer come to those of the original."""
    took, states, gave = (there.take(node) for node in it.told)
    returned = [_returned(it.there, out[0], state) for out, state in zip(gave, states, strict=True)]
    first, back = (
        [F.linear(_rows(value, seed), *_tensors(matrix, there.network))[:, it.kept] for value in values]
        for matrix, values in ((it.first, took), (it.back, returned))
    )
    takes = here.values(bind(it.here)["input"])
    _solve(it.first, result, takes, first, thins=thins, seed=seed)
    weight, bias = _tensors(it.first, result)
    weight = weight if it.first.rounding is None else it.first.rounding(weight)
    add = _adding(it.here, len(it.kept))
    wanted = [
        target + add * (ideal - F.linear(_rows(x, seed), weight, bias))
        for x, ideal, target in zip(takes, first, back, strict=True)
    ]
    units = it.kept[: it.back.dense.shape[1]]
    _solve(it.back, result, [value[..., units] for value in returned], wanted, thins=thins, seed=seed)


def _solve(
    matrix: _Matrix, network: Network, read: Sequence[Tensor], wanted: Sequence[Tensor], *, thins: bool, seed: int
) -> None:
    """One matrix and its bias; where nothing is cut, float weights move only for solvers that ask for it."""
    parameter, bias = _tensors(matrix, network)
    halves = gathered_in_halves((_rows(x, seed)[None], y[None]) for x, y in zip(read, wanted, strict=True))
    moments = [half.found(matrix.name) for half in (*halves, halves[0].with_all(halves[1]))]
    first, second, both = (found if bias is not None else found.about_zero() for found in moments)
    sparsity, shape = matrix.decision.sparsity, parameter.shape
    problem = Problem(
        name=matrix.name,
        shape=shape,
        weight=matrix.dense.cpu().double()[None],
        moments=both,
        halves=(first, second),
        gain=torch.ones_like(both.mean_y),
        pieces=None if sparsity is None else pieces_of(matrix.name, shape, 1, sparsity),
        kept=None if sparsity is None else parameter.cpu()[None] != 0,
        rounding=matrix.rounding,
    )
    moves = thins or matrix.decision.solver in SOLVING
    damping = damping_for(problem) if moves else None
    solved = solve_weight(problem, matrix.decision.solver, damping, matrix.decision.price)
    parameter.copy_(solved.weight.reshape(shape))
    if bias is not None:
        bias.copy_(both.mean_y[0] - solved.used[0] @ both.mean_x[0])


def _tensors(matrix: _Matrix, network: Network) -> tuple[Tensor, Tensor | None]:
    """Weight and bias."""
    bias = None if matrix.bias is None else attribute(network.module, matrix.bias)
    return attribute(network.module, matrix.name), bias


def _parameters(node: Node) -> list[Any]:
    """Weight and bias of what comes in, then of what comes back; None for no bias."""
    given = bind(node)
    ih, hh, *rest = given["params"]
    biases = rest[:2] if given["has_biases"] else [None, None]
    return [ih, biases[0], hh, biases[1]]


def _projects(node: Node) -> bool:
    """Whether what comes back is a projection of the units."""
    given = bind(node)
    return len(given["params"]) != (4 if given["has_biases"] else 2)


def _adding(node: Node, rows: int) -> Tensor:
    """1 where a gate adds what both matrices give; 0 for the last third of a GRU, which multiplies what comes back."""
    add = torch.ones(rows)
    if node.target is aten.gru.input:
        add[-rows // 3 :] = 0
    return add


def _initial(node: Node) -> Node:
    """The state [1, N, R] before the first step."""
    hx = bind(node)["hx"]
    return hx[0] if isinstance(hx, (list, tuple)) else hx


def _returned(node: Node, out: Tensor, state: Tensor) -> Tensor:
    """What comes back at every step: what was put out at the one before it, at first the initial state."""
    time = 1 if bind(node)["batch_first"] else 0
    return torch.cat([state.transpose(0, time), out.narrow(time, 0, out.shape[time] - 1)], time)


def _rows(values: Tensor, seed: int) -> Tensor:
    """[T, N, ·] or [N, T, ·] as rows; of a batch with more than `SAMPLES` as many, drawn at random."""
    rows = values.flatten(0, 1)
    if len(rows) <= SAMPLES:
        return rows
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:SAMPLES]]
