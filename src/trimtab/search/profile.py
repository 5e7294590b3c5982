"""The profile: what every option costs in loss, measured through the network, in bytes, MACs, BOPs and milliseconds."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Protocol

from pydantic import Field
from torch.utils import _pytree as pytree

from trimtab.errors import ConfigError
from trimtab.graph import Network
from trimtab.measure import macs
from trimtab.plan import Record, Target
from trimtab.prune import CRITERIA, rank
from trimtab.recover.seeding import seeded
from trimtab.search.filling import filled, filling_error, to_measure
from trimtab.search.latency_table import PASSES, needed_times, time_layers
from trimtab.search.meter import Meter
from trimtab.search.space import FLOAT_BITS, LayerShape, Option, Storage, Unit, narrower, shapes_of, units_of
from trimtab.stats import collect
from trimtab.tasks.task import Inputs, Task

PROFILE_ROWS, _LEAST_ROWS, _PROFILE_MACS = 256, 32, 10**11
"""Rows on which an option's loss is measured, and from which its batch norm is re-estimated; no fewer than the second,
and between them so many that a measurement takes as many MACs as the third.
"""

COST_QUANTITIES = ("size", "stored_size", "latency", "macs", "bops")
"""What the search can predict. Drop and memory are measured on the result."""

RANKING_ROWS = 1024
"""Rows that the criterion sees."""

NEGLIGIBLE_LOSS = 0.005
"""Divergence (of 1: as much as the outputs vary) below which a unit's storage in integers is taken as free."""


class LatencyFit(Record):
    """ms of a network = `of_sum` · sum of its layers' ms + `of_macs` · their MACs + `of_layers` · their number
    + `constant`. The errors are relative, of whole networks that were left out of the fit.
    """

    of_sum: float = 1.0
    of_macs: float = 0.0
    of_layers: float = 0.0
    constant: float = 0.0
    median_error: float | None = None
    worst_error: float | None = None


class Profile(Record):
    """Everything that the search needs, as data. Latency is that of `batch` rows at a time on so many `threads`.

    `baseline` holds the float network's size (bytes), latency (ms), macs and bops, and its stored size where that is of
    interest. `overhead` is what files hold besides weights, scales and biases, by quantity. `latency_table` has ms by
    kernel, where latency is of interest, and `latency_fit` makes of them the time of a network. `filling_error` is the
    median relative error of losses that were not measured.
    """

    fingerprint: str
    target: str
    seed: int
    criterion: str
    units: tuple[Unit, ...]
    layers: tuple[LayerShape, ...]
    baseline: dict[str, float]
    overhead: dict[str, float] = Field(default_factory=dict)
    latency_table: dict[str, float] = Field(default_factory=dict)
    latency_fit: LatencyFit = LatencyFit()
    batch: int = 1
    threads: int = 1
    filling_error: float | None = None


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
    by noise, and leave a conversion on either side. Of pairs of fewer channels and fewer bits one a unit is measured,
    the others are filled in (`filled`). What codes take in an entropy-coded file is that of all channels.
    """
    rows = profile_rows(network)
    meter = Meter(
        network,
        target,
        units,
        seen=[inputs for inputs, _ in first_batches(task.val, rows)],
        adjusting=[inputs for inputs, _ in first_batches(task.train, rows)],
    )
    measured = []
    for number, unit in enumerate(units):
        losses: dict[Option, float] = {}
        bits: dict[Storage, float] = {}
        coded = any(option.price for option in unit.options)
        for option in to_measure(unit, number):
            widest_integer = next((value for o, value in losses.items() if o.weight is not None), None)
            if option.weight is not None or widest_integer is None or widest_integer > NEGLIGIBLE_LOSS:
                losses[option] = float(memo(f"loss/{_key(unit, option)}", partial(meter.loss, unit, option)))
                if coded and option.weight is not None and option.kept == unit.width:
                    compute = partial(meter.stored_bits, unit, option)
                    bits[option.storage] = float(memo(f"bits/{_key(unit, option)}", compute))
            advance()
        measured.append(_with_bits(filled(unit, losses), bits))
    return measured


def _with_bits(unit: Unit, bits: Mapping[Storage, float]) -> Unit:
    options = (
        option.model_copy(update={"stored_bits": bits.get(option.storage, FLOAT_BITS)}) for option in unit.options
    )
    return unit.model_copy(update={"options": tuple(options)})


def _key(unit: Unit, option: Option) -> str:
    paid = f"/{option.price:g}" if option.price else ""
    return f"{unit.name}/{option.kept}/{option.bits[0]}x{option.bits[1]}{paid}"


def profile_rows(network: Network) -> int:
    """Rows on which an option's loss is measured: of a network of many MACs fewer."""
    return max(_LEAST_ROWS, min(PROFILE_ROWS, _PROFILE_MACS // max(macs(network), 1)))


def build_profile(
    network: Network,
    task: Task,
    target: Target,
    *,
    baseline: Mapping[str, float],
    limited: Collection[str] = COST_QUANTITIES,
    progress: Progress,
    seed: int = 0,
    criterion: str = "taylor",
    memo: Memo = forget,
) -> Profile:
    """Rank the channels, measure every option's loss. Kernels are timed by `with_kernel_times`.

    `baseline` holds the float network's size, macs and bops. Storage in fewer bits than the kernels' is on
    offer where one of the `limited` quantities gains by it. Losses are measured on validation inputs against
    the float network's outputs; the criterion and batch norm see training data.
    """
    if not network.layers:
        raise ConfigError("profile: no convolution or linear layer with a weight of its own, so nothing to compress")
    with seeded(seed, 0, task.train):
        ranked = memo("orders", lambda: orders_of(network, task, criterion))
    orders = {group: tuple(order) for group, order in ranked.items()}
    units = units_of(network, target, orders, narrower(limited, target))
    layers = shapes_of(network, units)
    measured = sum(len(to_measure(unit, number)) for number, unit in enumerate(units))
    with progress.stage("profile", total=measured) as advance, seeded(seed, 0, task.train):
        units = measure_losses(network, task, target, units, memo=memo, advance=advance)
    return Profile(
        fingerprint=network.fingerprint,
        target=target.name,
        seed=seed,
        criterion=criterion,
        units=tuple(units),
        layers=tuple(layers),
        baseline=dict(baseline),
        batch=target.batch,
        threads=target.threads,
        filling_error=filling_error(units),
    )


def with_kernel_times(
    profile: Profile, network: Network, target: Target, *, progress: Progress, memo: Memo = forget
) -> Profile:
    """The profile with the time of every kernel that a plan may need, in float too."""
    orders = {unit.group: unit.order for unit in profile.units if unit.group is not None}
    needed = needed_times(units_of(network, target, orders), profile.layers)
    with progress.stage("kernels", total=PASSES * len(needed)) as advance:
        table = memo("latency table", lambda: time_layers(needed, target, advance))
    return profile.model_copy(update={"latency_table": table})


def first_batches(loader: Any, rows: int) -> Iterator[tuple[Inputs, Any]]:
    """Whole batches from the start of a loader until `rows` rows are there."""
    seen = 0
    for inputs, target in loader:
        yield inputs, target
        seen += len(pytree.tree_leaves(inputs)[0])
        if seen >= rows:
            return
