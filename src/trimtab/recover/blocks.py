"""Block reconstruction: weights, scales and constants of a block are learned together, to write what the original did.

Source: Li et al. 2021, "BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction", section 3;
rounding is learned straight through (as in LSQ), from the codes that coordinate descent has found.
"""

from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from trimtab.graph import Network
from trimtab.graph.analysis import attribute
from trimtab.graph.values import bind
from trimtab.plan import PER_NETWORK
from trimtab.quant import ActivationFakeQuantize, WeightFakeQuantize
from trimtab.recover.outlets import outlet_of
from trimtab.recover.segments import Segment
from trimtab.recover.stepwise import Steps

STEPS = 200
ROWS = 32
"""Steps for each block, and rows in each of them."""

_MOVES = 0.01
"""Learning rate of a weight in grid steps, and of every other number relative to its size."""


def learn_block(
    network: Network, segment: Segment, read: Tensor, wanted: Tensor, seed: int, thinned: Collection[Node] = ()
) -> Tensor:
    """Learn the rounded layers of `segment` in place: from `read` [rows, …] to `wanted`, the original's values there.

    In layers that are `thinned`, zeros stay zeros. Returns what the block then writes. Adam on the mean squared error;
    the rate falls to zero as a cosine does. Keeps the better of before and after, on all rows.
    """
    learned = _Learned(network, segment, thinned)
    before = [parameter.detach().clone() for parameter in learned.parameters]
    written = learned.write(read)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam([{"params": [p], "lr": _rate(p, unit)} for p, unit in learned.units()])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    with torch.enable_grad():
        for _ in range(STEPS):
            rows = torch.randint(len(read), (min(ROWS, len(read)),), generator=generator)
            optimizer.zero_grad()
            loss = (learned.run(read[rows]) - wanted[rows]).square().mean()
            loss.backward()
            optimizer.step()
            learned.hold_zeros()
            schedule.step()
    after = learned.write(read)
    if (after - wanted).square().mean() < (written - wanted).square().mean():
        written = after
    else:
        for parameter, value in zip(learned.parameters, before, strict=True):
            parameter.detach().copy_(value)
    learned.release()
    return written


class _Learned:
    """What may change in a block: weights that are rounded, their scales, constants, and the scales of activations."""

    def __init__(self, network: Network, segment: Segment, thinned: Collection[Node]) -> None:
        self._steps, self._segment = Steps(network), segment
        self._units: dict[nn.Parameter, Tensor] = {}
        self._rounded: dict[nn.Parameter, WeightFakeQuantize] = {}
        for node in segment.layers:
            self._add_layer(network, node, alone=len(segment.layers) == 1)
        weights = [attribute(network.module, str(bind(n)["weight"].all_input_nodes[0].target)) for n in thinned]
        self._kept = {weight: weight != 0 for weight in weights if weight in self._rounded}
        for node in segment.nodes:
            site = network.module.get_submodule(str(node.target)) if node.op == "call_module" else None
            if isinstance(site, ActivationFakeQuantize):
                self._add(site.get_parameter("scale"), site.scale)
        self._required = {parameter: parameter.requires_grad for parameter in self._units}
        for parameter in self._units:
            parameter.requires_grad_(True)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self._units)

    def units(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Each parameter, and the size that its steps are measured in."""
        yield from self._units.items()

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

    def run(self, read: Tensor) -> Tensor:
        """What the block writes."""
        values: dict[Any, Any] = {self._segment.start: read}
        for node in self._segment.nodes:
            values[node] = self._steps.run(node, values | self._steps.constants(node))
        result: Tensor = values[self._segment.end]
        return result

    @torch.no_grad()
    def write(self, read: Tensor) -> Tensor:
        """What the block writes for all rows."""
        return torch.cat([self.run(part) for part in read.split(4 * ROWS)])

    def _add_layer(self, network: Network, node: Node, *, alone: bool) -> None:
        given = bind(node)
        if given["weight"].op != "call_module":
            return
        rounding = network.module.get_submodule(str(given["weight"].target))
        assert isinstance(rounding, WeightFakeQuantize)
        weight = attribute(network.module, str(given["weight"].all_input_nodes[0].target))
        if not alone:  # of a layer by itself, coordinate descent has minimized the same error already
            self._rounded[weight] = rounding
            self._add(weight, rounding.step())
            if rounding.granularity != PER_NETWORK:
                self._add(rounding.scale, rounding.scale)
        outlet = outlet_of(network.module, node)
        constants = [given["bias"]] if outlet.norm is None else [bind(outlet.norm)[name] for name in ("weight", "bias")]
        for constant in constants:
            if constant is not None:
                values = attribute(network.module, str(constant.target))
                self._add(values, values)

    def _add(self, parameter: nn.Parameter, unit: Tensor) -> None:
        self._units[parameter] = unit.detach().abs().mean()


def _rate(parameter: nn.Parameter, unit: Tensor) -> float:
    return _MOVES * max(float(unit), 1e-8)
