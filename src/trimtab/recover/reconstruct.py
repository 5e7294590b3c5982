"""Layer after layer, a compressed network is brought back to what the original computes. No labels, no gradients.

The target of a layer is what the original has behind it (batch norm and shortcut included) on the same inputs; what
the layer reads are the values of the compressed network, where earlier layers are solved and rounded already. So every
layer also makes up for the errors of those before it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.fx import Node

from trimtab.errors import TaskError
from trimtab.graph import Network
from trimtab.graph.analysis import attribute
from trimtab.graph.kept import Kept
from trimtab.graph.surgery import check_kept, sliced
from trimtab.graph.values import bind
from trimtab.plan import LayerDecision, Plan
from trimtab.prune.masks import prunable
from trimtab.quant import WeightFakeQuantize
from trimtab.recover.affine import Affine
from trimtab.recover.blocks import Block, learn_blocks
from trimtab.recover.layerwise import SOLVING, Problem, damping_for, gathered_in_halves, solve_weight
from trimtab.recover.outlets import Outlet, outlet_of
from trimtab.recover.recurrent import Recurrence, recurrences, solve_recurrence
from trimtab.recover.rounding import rounding_of
from trimtab.recover.segments import segments
from trimtab.recover.stepwise import Stepwise
from trimtab.solve import Gathering, pieces_of
from trimtab.stats.layer_rows import positions_of, rows_read, rows_written
from trimtab.stats.observe import positional
from trimtab.tasks.rows import lay_out
from trimtab.tasks.task import Inputs


@dataclass(frozen=True)
class _Place:
    """A layer in both networks, and the channels of the original that the compressed one has.

    `dense`: of a layer that is thinned, what the cuts leave of the original's weight.
    """

    name: str
    here: Outlet
    there: Outlet
    kept: Tensor
    dense: Tensor | None
    decision: LayerDecision

    @property
    def adds(self) -> bool:
        """Whether the target is behind the addition of a shortcut, in both."""
        return self.here.add is not None and self.there.add is not None

    @property
    def target(self) -> Node:
        """The node of the original whose values the layer shall come to."""
        return self.there.add if self.adds and self.there.add is not None else self.there.own


@torch.no_grad()
def repair(cut: Network, original: Network, plan: Plan, batches: Sequence[Inputs]) -> Network:
    """A copy of `cut` (what `apply` made of `original` and `plan`) whose layers come nearest to the original's outputs.

    One convolution, linear or recurrent layer after the other solves least squares for the target and is then rounded
    by the decision's solver. Where the plan thins a layer, solvers that find masks choose anew which weights leave; the
    others leave the zeros where they are. Ranges of activations are calibrated on the way, and batch norm gets the
    statistics of what it then reads. Where nothing is cut and the solver is "nearest" only the mean of each channel is
    set right (bias correction). A weight that is read twice (as a cell's is, at every step) or computed stays.
    Raises: TaskError without batches, NumericsError for values that are not finite, PlanError for another network.
    """
    batches = lay_out(list(batches), torch.channels_last)
    if not batches:
        raise TaskError("repair: the data has no batches; give at least one")
    result = cut.clone().eval()
    reference = original.clone().eval()
    places, recurring = _places(result, reference, plan)
    blocks = _blocks(result, reference, places)
    here = Stepwise(result, batches, held=[block.segment.start for block in blocks[:1]])
    told = [node for layer in recurring for node in layer.told]
    there = Stepwise(reference, batches, held=[*(place.target for place in places), *told])
    solved = {place.here.node: partial(_solve, place) for place in places}
    solved |= {layer.here: partial(solve_recurrence, layer) for layer in recurring}
    for number, node in enumerate(sorted(solved)):
        here.run_to(node, inclusive=False)
        solved[node](result, here, there, thins=plan.thins, seed=plan.seed + number)
    here.run_to(next(iter(result.module.graph.find_nodes(op="output"))), inclusive=True)
    if blocks:
        read = torch.cat(here.take(blocks[0].segment.start))
        inputs = [
            torch.cat(values) for values in zip(*(positional(reference, batch) for batch in batches), strict=True)
        ]
        learn_blocks(result, reference, blocks, read, inputs, plan.seed)
    result.train(cut.training)
    return result


@dataclass(frozen=True)
class Trial:
    """A layer of an untouched network, to try weights on: `problem` is what it reads and writes, with nothing removed
    and nothing rounded (set `pieces`, `kept` and `rounding` as wanted, with `dataclasses.replace`).
    """

    problem: Problem
    network: Network
    layer: Affine

    @torch.no_grad()
    def changed(self, rows: Tensor) -> dict[str, Tensor]:
        """The tensors that are others when the layer computes with `rows` [groups, m, n] and keeps its means."""
        own = {tensor.data_ptr() for tensor in self.layer.tensors}
        state = {name: value for name, value in self.network.state_dict().items() if value.data_ptr() in own}
        before = {name: value.clone() for name, value in state.items()}
        self.layer.write(rows)
        self.layer.set_constant(rows, self.problem.moments)
        found = {name: value.clone() for name, value in state.items() if not torch.equal(value, before[name])}
        for name, value in before.items():
            state[name].copy_(value)
        return found


@torch.no_grad()
def trials(network: Network, batches: Sequence[Inputs]) -> Iterator[Trial]:
    """The layers of an untouched network one after the other, on these inputs. Raises: as `repair`."""
    network = network.clone().eval()
    batches = lay_out(list(batches), torch.channels_last)
    places, _ = _places(network, network, Plan(fingerprint=network.fingerprint, target=""))
    here, there = Stepwise(network, batches), Stepwise(network, batches, held=[place.target for place in places])
    for number, place in enumerate(places):
        here.run_to(place.here.node, inclusive=False)
        layer = Affine(network.module, place.here, attribute(network.module, f"{place.name}.weight"))
        yield Trial(_problem(place, layer, _moments(place, layer, here, there, number), None), network, layer)


def _solve(place: _Place, result: Network, here: Stepwise, there: Stepwise, *, thins: bool, seed: int) -> None:
    """Set weight and constant; where nothing is cut, float weights move only for solvers that ask for it."""
    moves = thins or place.decision.solver in SOLVING
    layer = Affine(result.module, place.here, attribute(result.module, f"{place.name}.weight"))
    problem = _problem(
        place,
        layer,
        _moments(place, layer, here, there, seed),
        rounding_of(result.module, bind(place.here.node)["weight"]),
    )
    damping = damping_for(problem) if moves else None
    solved = solve_weight(problem, place.decision.solver, damping, place.decision.price)
    layer.write(solved.weight)
    layer.set_constant(solved.used, problem.moments)


def _problem(
    place: _Place, layer: Affine, halves: tuple[Gathering, Gathering], rounding: WeightFakeQuantize | None
) -> Problem:
    first, second, both = (
        layer.before_gain(found if layer.constant else found.about_zero())
        for found in (half.found(place.name) for half in (*halves, halves[0].with_all(halves[1])))
    )
    sparsity, shape = place.decision.sparsity, layer.parameter.shape
    return Problem(
        name=place.name,
        shape=shape,
        weight=layer.weight(place.dense),
        moments=both,
        halves=(first, second),
        gain=layer.by_group(layer.gain),
        pieces=None if sparsity is None else pieces_of(place.name, shape, layer.groups, sparsity),
        kept=None if sparsity is None else layer.weight() != 0,
        rounding=rounding,
    )


def _moments(place: _Place, layer: Affine, here: Stepwise, there: Stepwise, seed: int) -> tuple[Gathering, Gathering]:
    """Of the layer's inputs and targets, over the first and the second half of the rows of every batch."""
    node, channels = place.here.node, place.here.channels
    targets, kernel = there.take(place.target), tuple(layer.parameter.shape[2:])
    positions = positions_of(targets, channels, seed)
    others = here.values(place.here.other) if place.adds and place.here.other is not None else targets

    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        for x, y, other in zip(here.values(bind(node)["input"]), targets, others, strict=True):
            wanted = rows_written(y, channels, positions)[:, place.kept.to(y.device)]
            if place.adds:
                wanted = wanted - rows_written(other, channels, positions)
            yield rows_read(node, x, kernel, positions), layer.by_group(wanted.mT).mT

    return gathered_in_halves(pairs())


def _blocks(result: Network, original: Network, places: Sequence[_Place]) -> list[Block]:
    """The blocks in which a layer is solved by "block", and what they shall write."""
    chosen = {place.here.node: place for place in places if place.decision.solver == "block"}
    known = {node.name: node for node in original.module.graph.nodes}
    found = []
    for segment in segments(result, tuple(chosen)):
        last = chosen[segment.layers[-1]]
        end = segment.end
        while end.op == "call_module":
            (end,) = end.all_input_nodes
        there = known[end.name]
        channels = last.here.channels
        size = there.meta["val"].shape[channels]
        same = end.meta["val"].shape[channels] == size
        kept = torch.arange(size) if same else last.kept
        thinned = tuple(node for node in segment.layers if chosen[node].decision.sparsity is not None)
        found.append(Block(segment, there, kept, channels, thinned))
    return found


def _places(result: Network, original: Network, plan: Plan) -> tuple[list[_Place], list[Recurrence]]:
    """Every layer that both networks have and whose weight is read once, in the order of the compressed graph."""
    kept = Kept(
        {
            original.group(decision.group).axis: check_kept(original, decision.group, decision.kept)
            for decision in plan.groups
        }
    )
    decisions = {decision.layer: decision for decision in plan.layers}
    parameters = prunable(original)
    thinned = {parameters[name] for name, decision in decisions.items() if decision.sparsity is not None}
    weights = {name: value for name, value in original.named_parameters() if name in thinned}
    dense = sliced(original, weights, {decision.group: decision.kept for decision in plan.groups})
    twice = {layer.weight for layer in result.layers if "#" in layer.name}
    nodes = [{node.name: node for node in network.module.graph.nodes} for network in (result, original)]
    places = [
        _Place(
            name=layer.name,
            here=outlet_of(result.module, nodes[0][layer.node]),
            there=outlet_of(original.module, nodes[1][original.layer(layer.name).node]),
            kept=kept.positions(original.dims(layer.weight)[0]),
            dense=dense.get(layer.weight),
            decision=decisions.get(layer.name, LayerDecision(layer=layer.name)),
        )
        for layer in result.layers
        if layer.weight not in twice
    ]
    return places, recurrences(result, original, kept, dense, decisions)
