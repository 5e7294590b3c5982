"""Block reconstruction: weights, scales and constants of all blocks are learned at once, so that each of them writes
what the original's did.

Source: Li et al. 2021, "BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction", section 3;
there one block is learned after the other. Rounding is learned straight through (as in LSQ), from the codes that
coordinate descent has found.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from trimtab.errors import PlanError
from trimtab.graph import Network
from trimtab.graph.analysis import attribute
from trimtab.graph.values import bind
from trimtab.quant import ActivationFakeQuantize, WeightFakeQuantize
from trimtab.recover.outlets import outlet_of
from trimtab.recover.rounding import rounding_of
from trimtab.recover.segments import Segment
from trimtab.recover.stepwise import Steps

STEPS = 200
ROWS = 32
"""Steps, and rows in each of them."""

_MOVES = 0.01
"""Learning rate of a weight in grid steps, and of every other number relative to its size."""


@dataclass(frozen=True)
class Block:
    """A segment, the node of the original whose values it shall come to, and which of its channels are left.

    Of the layers that are `thinned` some weights stay zero.
    """

    segment: Segment
    end: Node
    kept: Tensor
    channels: int
    thinned: tuple[Node, ...]


def learn_blocks(
    network: Network,
    original: Network,
    blocks: Sequence[Block],
    read: Tensor,
    inputs: Sequence[Tensor],
    seed: int,
) -> None:
    """Learn the rounded layers of `blocks`, each of which begins where the one before ends, in place.

    `read` [rows, …] is what the first of them reads, `inputs` are what the original does, with the same rows. Adam on
    the sum over blocks of the squared error behind each as a share of the variance there; errors of a block reach those
    before it. The rate falls to zero as a cosine does. Keeps the better of before and after, on all rows.
    Raises: PlanError for a block that writes other rows than the network reads.
    """
    _check_rows(blocks[0], len(read), *(len(values) for values in inputs))
    learned, targets = _Learned(network, blocks), _Targets(original, blocks, inputs)
    rows = torch.arange(len(read))
    targets.set_units(rows[: 4 * ROWS])

    @torch.no_grad()
    def error() -> float:
        parts = rows.split(4 * ROWS)
        return sum(len(part) * float(targets.error(learned.write(read[part]), part)) for part in parts)

    before = [parameter.detach().clone() for parameter in learned.parameters]
    error_before = error()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam([{"params": [p], "lr": _rate(unit)} for p, unit in learned.units.items()])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    with torch.enable_grad():
        for _ in range(STEPS):
            some = torch.randint(len(rows), (min(ROWS, len(rows)),), generator=generator)
            optimizer.zero_grad()
            targets.error(learned.write(read[some]), some).backward()
            optimizer.step()
            learned.hold_zeros()
            schedule.step()
    if not error() < error_before:
        for parameter, value in zip(learned.parameters, before, strict=True):
            parameter.detach().copy_(value)
    learned.release()


class _Targets:
    """What the original writes behind every block, computed anew for each few rows: all of it would be much to keep."""

    def __init__(self, original: Network, blocks: Sequence[Block], inputs: Sequence[Tensor]) -> None:
        self._steps, self._blocks = Steps(original), {block.end: block for block in blocks}
        order = self._steps.order
        last = max(self._steps.place[end] for end in self._blocks)
        self._nodes = [node for node in order[: last + 1] if self._steps.moves(node) and node.op != "placeholder"]
        placeholders = (node for node in order if node.op == "placeholder")
        self._inputs = dict(zip(placeholders, inputs, strict=True))
        self._units: list[float] = []

    def set_units(self, rows: Tensor) -> None:
        """Measure how far targets spread, which errors are compared with."""
        spreads = [float(wanted.var()) if wanted.numel() > 1 else 0.0 for wanted in self._wanted(rows)]
        self._units = [spread or 1.0 for spread in spreads]

    def error(self, written: Iterator[Tensor], rows: Tensor) -> Tensor:
        """The sum over blocks of their mean squared error, as a share of how far the targets spread."""
        total = torch.zeros((), device=next(iter(self._inputs.values())).device)
        for block, value, wanted, unit in zip(
            self._blocks.values(), written, self._wanted(rows), self._units, strict=True
        ):
            _check_rows(block, len(rows), len(value), len(wanted))
            total = total + (value - wanted).square().mean() / unit
        return total

    @torch.no_grad()
    def _wanted(self, rows: Tensor) -> list[Tensor]:
        values = {node: value[rows] for node, value in self._inputs.items()}
        found = []
        for node, value in self._steps.through(self._nodes, values):
            if node in self._blocks:
                block = self._blocks[node]
                found.append(value.index_select(block.channels, block.kept.to(value.device)))  # a copy
        return found


class _Learned:
    """What may change in blocks: weights that are rounded, their scales, constants, and the scales of activations.

    `units` has the size that the steps of each are measured in.
    """

    def __init__(self, network: Network, blocks: Sequence[Block]) -> None:
        self._network, self._steps = network, Steps(network)
        self._start = blocks[0].segment.start
        self._nodes = [node for block in blocks for node in block.segment.nodes]
        self._ends = {block.segment.end for block in blocks}
        self.units: dict[nn.Parameter, Tensor] = {}
        self._rounded: dict[nn.Parameter, WeightFakeQuantize] = {}
        for block in blocks:
            for node in block.segment.layers:
                self._add_layer(node, alone=len(block.segment.layers) == 1)
        weights = [_weight(network.module, node) for block in blocks for node in block.thinned]
        self._kept = {weight: weight != 0 for weight in weights if weight in self.units}
        for node in self._nodes:
            site = network.module.get_submodule(str(node.target)) if node.op == "call_module" else None
            if isinstance(site, ActivationFakeQuantize):
                self._add(site.get_parameter("scale"), site.scale)
        self._required = {parameter: parameter.requires_grad for parameter in network.module.parameters()}
        for parameter in self._required:
            parameter.requires_grad_(parameter in self.units)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.units)

    @torch.no_grad()
    def hold_zeros(self) -> None:
        """Put back to zero what a plan has removed."""
        for weight, kept in self._kept.items():
            weight.mul_(kept)

    @torch.no_grad()
    def release(self) -> None:
        """Weights are what they are rounded to; parameters require gradients as before, and have none."""
        for weight, rounding in self._rounded.items():
            weight.copy_(rounding(weight))
        for parameter, required in self._required.items():
            parameter.requires_grad_(required)
            parameter.grad = None

    def write(self, read: Tensor) -> Iterator[Tensor]:
        """What the blocks write, each value before a later operator may overwrite it."""
        for node, value in self._steps.through(self._nodes, {self._start: read}):
            if node in self._ends:
                yield value

    def _add_layer(self, node: Node, *, alone: bool) -> None:
        module, given = self._network.module, bind(node)
        rounding = rounding_of(module, given["weight"])
        weight = _weight(module, node)
        if not alone:  # of a layer by itself, the best weights and codes are found already
            if rounding is not None:
                self._rounded[weight] = rounding
            self._add(weight, weight if rounding is None else rounding.step())
        outlet = outlet_of(module, node)
        constants = [given["bias"]] if outlet.norm is None else [bind(outlet.norm)[name] for name in ("weight", "bias")]
        for constant in constants:
            if constant is not None:
                values = attribute(module, str(constant.target))
                self._add(values, values)

    def _add(self, parameter: nn.Parameter, unit: Tensor) -> None:
        self.units[parameter] = unit.detach().abs().mean()


def _weight(module: GraphModule, node: Node) -> nn.Parameter:
    """The weight of a layer's node, whether or not it is rounded."""
    read = bind(node)["weight"]
    weight = attribute(module, str((read.all_input_nodes[0] if read.op == "call_module" else read).target))
    assert isinstance(weight, nn.Parameter)
    return weight


def _check_rows(block: Block, rows: int, *others: int) -> None:
    if any(other != rows for other in others):
        raise PlanError(
            f"solver 'block': the block that ends at {block.segment.end.name} has other rows than the network reads; "
            "choose 'coordinate_descent' for its layers"
        )


def _rate(unit: Tensor) -> float:
    return _MOVES * max(float(unit), 1e-8)
