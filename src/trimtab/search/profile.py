"""The profile: what every option costs in loss, measured through the network, in bytes, MACs, BOPs and milliseconds."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from pydantic import Field
from torch import Tensor
from torch.utils import _pytree as pytree

from trimtab.errors import ConfigError
from trimtab.graph import Network
from trimtab.measure import divergence, outputs_of
from trimtab.plan import LayerDecision, Record, Target
from trimtab.prune import CRITERIA, rank
from trimtab.quant import insert_fake_quantization
from trimtab.recover.batchnorm import reestimate_batchnorm
from trimtab.recover.seeding import seeded
from trimtab.recover.settle import settle
from trimtab.search.latency_table import needed_times, time_layers
from trimtab.search.space import LayerShape, Option, Unit, shape_of, unique_layers, units_of
from trimtab.stats import collect
from trimtab.tasks.rows import lay_out
from trimtab.tasks.switches import evaluating
from trimtab.tasks.task import Inputs, Task

PROFILE_ROWS = 256
"""Rows on which an option's loss is measured, and rows from which its batch norm is re-estimated."""

RANKING_ROWS = 1024
"""Rows that the criterion sees."""

NEGLIGIBLE_LOSS = 0.005
"""Divergence (of 1: as much as the outputs vary) below which a unit's storage in integers is taken as free."""


class Profile(Record):
    """Everything that the search needs, as data.

    `baseline` holds the float network's size (bytes), latency (ms), macs and bops. `overhead_bytes` is what an artifact
    holds besides weights, scales and biases. `latency_table` has ms by kernel, `latency_scale` turns their sum into the
    time of a network.
    """

    fingerprint: str
    target: str
    seed: int
    criterion: str
    units: tuple[Unit, ...]
    layers: tuple[LayerShape, ...]
    baseline: dict[str, float]
    overhead_bytes: float = 0.0
    latency_table: dict[str, float] = Field(default_factory=dict)
    latency_scale: float = 1.0


class Memo(Protocol):
    """Remembers what was computed for a key, across restarts (`Run.remember`)."""

    def __call__(self, key: str, compute: Callable[[], Any]) -> Any: ...


class Advance(Protocol):
    """Called after each piece of work."""

    def __call__(self, steps: int = 1) -> None: ...


class Progress(Protocol):
    """Shows a stage of `total` pieces while it is open (`report.Stages`)."""

    def stage(self, name: str, total: int | None = None) -> AbstractContextManager[Advance]: ...


class Silent:
    """Progress that nobody looks at."""

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """Yields an `advance` that does nothing."""
        yield lambda steps=1: None


def forget(key: str, compute: Callable[[], Any]) -> Any:
    """A memo that remembers nothing."""
    return compute()


def orders_of(network: Network, task: Task, criterion: str) -> dict[str, tuple[int, ...]]:
    """The channels of every group from the most to the least important, by the criterion on training data."""
    score = CRITERIA.load(criterion)()
    stats = collect(network, list(first_batches(task.train, RANKING_ROWS)), task.loss, score.needs)
    return {group.name: rank(score(network, group, stats)) for group in network.groups}


def measure_losses(
    network: Network, task: Task, target: Target, units: Sequence[Unit], *, memo: Memo = forget, advance: Advance
) -> list[Unit]:
    """Every option's loss: the change in the network's outputs on validation inputs when only this option is taken.

    Where an integer kernel loses next to nothing, float options are neither measured nor offered: they would only win
    by noise, and leave a conversion on either side.
    """
    meter = _Meter(
        network,
        target,
        seen=[inputs for inputs, _ in first_batches(task.val, PROFILE_ROWS)],
        adjusting=[inputs for inputs, _ in first_batches(task.train, PROFILE_ROWS)],
    )
    measured = []
    for unit in units:
        losses: dict[Option, float] = {}
        for option in sorted(unit.options, key=lambda o: (-o.kept, o.weight is None)):
            widest_integer = next((value for o, value in losses.items() if o.weight is not None), None)
            if option.weight is not None or widest_integer is None or widest_integer > NEGLIGIBLE_LOSS:
                key = f"loss/{unit.name}/{option.kept}/{_bits_key(option)}"
                losses[option] = float(memo(key, partial(meter.loss, unit, option)))
            advance()
        options = tuple(option.model_copy(update={"loss": loss}) for option, loss in losses.items())
        measured.append(unit.model_copy(update={"options": options}))
    return measured


def build_profile(
    network: Network,
    task: Task,
    target: Target,
    *,
    baseline: Mapping[str, float],
    progress: Progress,
    seed: int = 0,
    criterion: str = "taylor",
    memo: Memo = forget,
) -> Profile:
    """Rank the channels, measure every option's loss, time every kernel.

    `baseline` holds the float network's size, macs, bops and latency. Losses are measured on validation inputs against
    the float network's outputs; the criterion and batch norm see training data.
    """
    if not network.layers:
        raise ConfigError("profile: no convolution or linear layer with a weight of its own, so nothing to compress")
    with seeded(seed, 0, task.train):
        ranked = memo("orders", lambda: orders_of(network, task, criterion))
    units = units_of(network, target, {group: tuple(order) for group, order in ranked.items()})
    layers = [shape_of(network, layer) for layer in unique_layers(network)]
    needed = needed_times(units, layers)
    with progress.stage("profile", total=sum(len(unit.options) for unit in units) + len(needed)) as advance:
        with seeded(seed, 0, task.train):
            units = measure_losses(network, task, target, units, memo=memo, advance=advance)
        table = memo("latency table", lambda: time_layers(needed, target, advance))
    return Profile(
        fingerprint=network.fingerprint,
        target=target.name,
        seed=seed,
        criterion=criterion,
        units=tuple(units),
        layers=tuple(layers),
        baseline=dict(baseline),
        latency_table=table,
    )


class _Meter:
    """Measures one option at a time against the float network's outputs."""

    def __init__(
        self, network: Network, target: Target, *, seen: Sequence[Inputs], adjusting: Sequence[Inputs]
    ) -> None:
        self.network, self.target = network, target
        self.seen, self.adjusting = lay_out(seen, torch.channels_last), lay_out(adjusting, torch.channels_last)
        with evaluating(network):
            self.reference = outputs_of(network, self.seen)
        self._variant: tuple[tuple[str, bool], Network] | None = None

    def loss(self, unit: Unit, option: Option) -> float:
        """Divergence of the outputs when only this option is taken."""
        if option.kept == unit.width and option.weight is None:
            return 0.0
        variant = self._stored(unit, option)
        if option.kept == unit.width:
            return divergence(outputs_of(variant, self.seen), self.reference)
        with _masked(self.network, variant, unit, unit.order[option.kept :]):
            adjusted = reestimate_batchnorm(variant, self.adjusting)
            return divergence(outputs_of(adjusted, self.seen), self.reference)

    def _stored(self, unit: Unit, option: Option) -> Network:
        """The network with only this unit's layers stored as the option says; the last one is kept."""
        key = (unit.name, option.weight is not None)
        if self._variant is None or self._variant[0] != key:
            variant = self.network.clone()
            if option.weight is not None:
                decisions = {
                    name: LayerDecision(layer=name, weight=option.weight, activation=option.activation)
                    for name in unit.layers
                }
                insert_fake_quantization(variant.module, decisions, self.target)
                variant = settle(variant, self.adjusting, structure_changed=False)
            variant.eval()
            self._variant = key, variant
        return self._variant[1]


@contextmanager
def _masked(network: Network, variant: Network, unit: Unit, removed: Sequence[int]) -> Iterator[None]:
    """The removed channels are zero in every parameter inside the block; exact, because a cut equals its mask."""
    group = network.group(unit.group or "")
    gone = torch.zeros(group.width, dtype=torch.bool)
    gone[list(removed)] = True
    saved: dict[str, Tensor] = {}
    with torch.no_grad():
        for member in group.members:
            parameter = dict(variant.module.named_parameters()).get(member.parameter)
            if parameter is None:
                continue
            saved.setdefault(member.parameter, parameter.detach().clone())
            units = network.units(group, member)
            positions = torch.nonzero((units >= 0) & gone[units.clamp(min=0)]).squeeze(1)
            parameter.index_fill_(member.dim, positions, 0.0)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in saved.items():
                variant.module.get_parameter(name).copy_(value)


def first_batches(loader: Any, rows: int) -> Iterator[tuple[Inputs, Any]]:
    """Whole batches from the start of a loader until `rows` rows are there."""
    seen = 0
    for inputs, target in loader:
        yield inputs, target
        seen += len(pytree.tree_leaves(inputs)[0])
        if seen >= rows:
            return


def _bits_key(option: Option) -> str:
    return f"w{option.weight.bits if option.weight else 32}a{option.activation.bits if option.activation else 32}"
