"""The loss of one option: what it alone does to the network's outputs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import torch

from trimtab.graph import Network, remove
from trimtab.measure import divergence, outputs_of
from trimtab.plan import LayerDecision, Scheme, Target
from trimtab.quant import WeightFakeQuantize, insert_fake_quantization
from trimtab.quant.grids.kernels import grid_of
from trimtab.recover.batchnorm import reestimate_batchnorm
from trimtab.recover.settle import settle
from trimtab.search.repairs import Repairs, State, find_repairs
from trimtab.search.space import Option, Storage, Unit
from trimtab.solve import coded_bits
from trimtab.tasks.rows import lay_out
from trimtab.tasks.switches import evaluating
from trimtab.tasks.task import Inputs


class Meter:
    """Measures one option at a time against the float network's outputs on `seen`.

    `adjusting` are the training inputs from which ranges, and what makes up for an option, come: of fewer channels the
    weights of their readers, of fewer than 8 bits the codes of the layer solver, without a branch batch norm.
    """

    def __init__(
        self,
        network: Network,
        target: Target,
        units: Sequence[Unit] = (),
        *,
        seen: Sequence[Inputs],
        adjusting: Sequence[Inputs],
    ) -> None:
        self.network, self.target = network, target
        self.seen, self.adjusting = lay_out(seen, torch.channels_last), lay_out(adjusting, torch.channels_last)
        with evaluating(network):
            self.reference = outputs_of(network, self.seen)
        self._variant: tuple[tuple[str, Storage], Network] | None = None
        self._units = units

    def loss(self, unit: Unit, option: Option) -> float:
        """Divergence of the outputs when only this option is taken."""
        if unit.branch is not None:
            return 0.0 if option.kept else self._removed(unit.branch)
        if option.kept == unit.width and option.weight is None:
            return 0.0
        variant = self._stored(unit, option)
        with _changed(variant, self._repairs.readers.get((unit.name, option.kept), {})):
            _mask(self.network, variant, unit, unit.order[option.kept :])
            return divergence(outputs_of(variant, self.seen), self.reference)

    def stored_bits(self, unit: Unit, option: Option) -> float:
        """What an entropy coder spends on a weight of the unit's layers, each tensor at its own frequencies."""
        assert option.weight is not None
        bits, number = 0.0, 0
        for name in unit.layers:
            weight = self.network.module.get_parameter(self.network.layer(name).weight)
            known = self._repairs.bits.get((name, option.weight, option.price)) if option.solved else None
            if known is None:
                rounding = WeightFakeQuantize(grid_of(option.weight), weight, option.weight.granularity, where=name)
                known = coded_bits(rounding.codes(weight))
            bits, number = bits + known, number + weight.numel()
        return bits / number

    @cached_property
    def _repairs(self) -> Repairs:
        return find_repairs(self.network, self.adjusting, self._units, _to_solve(self._units))

    def _removed(self, branch: str) -> float:
        """Without a branch."""
        adjusted = reestimate_batchnorm(remove(self.network, [branch]), self.adjusting)
        with evaluating(adjusted):
            return divergence(outputs_of(adjusted, self.seen), self.reference)

    def _stored(self, unit: Unit, option: Option) -> Network:
        """The network with only this unit's layers stored as the option says; the last one is kept."""
        key = (unit.name, option.storage)
        if self._variant is None or self._variant[0] != key:
            variant = self.network.clone()
            if option.weight is not None:
                weight = None if option.solved else option.weight
                decisions = {
                    name: LayerDecision(layer=name, weight=weight, activation=option.activation) for name in unit.layers
                }
                insert_fake_quantization(variant.module, decisions, self.target)
                for name in unit.layers if option.solved else ():
                    codes = self._repairs.codes.get((name, option.weight, option.price), {})
                    variant.module.load_state_dict(codes, strict=False)
                variant = settle(variant, self.adjusting, structure_changed=False)
            variant.eval()
            self._variant = key, variant
        return self._variant[1]


def _to_solve(units: Sequence[Unit]) -> dict[str, list[tuple[Scheme, float]]]:
    """By layer the schemes and prices on offer for its weight that the layer solver is asked for."""
    found: dict[str, list[tuple[Scheme, float]]] = {}
    for unit in units:
        wanted = dict.fromkeys((o.weight, o.price) for o in unit.options if o.weight is not None and o.solved)
        found |= {name: list(wanted) for name in unit.layers if wanted}
    return found


@contextmanager
def _changed(variant: Network, state: State) -> Iterator[None]:
    """These tensors are others inside the block; every parameter is as before behind it."""
    before = {name: value.clone() for name, value in variant.state_dict().items()}
    variant.module.load_state_dict(state, strict=False)
    try:
        yield
    finally:
        variant.load_state_dict(before)


@torch.no_grad()
def _mask(network: Network, variant: Network, unit: Unit, removed: Sequence[int]) -> None:
    """The removed channels become zero in every parameter; exact, because a cut equals its mask."""
    if unit.group is None or not removed:
        return
    group = network.group(unit.group)
    gone = torch.zeros(group.width, dtype=torch.bool)
    gone[list(removed)] = True
    parameters = dict(variant.module.named_parameters())
    for member in group.members:
        if member.parameter in parameters:
            units = network.units(group, member)
            positions = torch.nonzero((units >= 0) & gone[units.clamp(min=0)]).squeeze(1)
            parameters[member.parameter].index_fill_(member.dim, positions, 0.0)
