"""`tt.quantize`: from bits to a plan."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from trimtab.apply import check
from trimtab.errors import ConfigError, TaskError
from trimtab.graph import Network
from trimtab.lower import target as target_of
from trimtab.plan import PER_CHANNEL, Plan, Target
from trimtab.plan.plan import Solver
from trimtab.quant.ranges import RANGES
from trimtab.search.profile import Progress, Silent
from trimtab.search.quantizing.asked import Asked, Granularity, Learned
from trimtab.search.quantizing.mixed import choose_bits
from trimtab.search.quantizing.sensitivities import SENSITIVITIES, Sensitivity
from trimtab.stats import Stats
from trimtab.tasks.task import Inputs

Batches = Iterable[tuple[Inputs, Any]]


def quantize(
    network: Network,
    *,
    weights: int | None = 8,
    activations: int | None = 8,
    grid: str = "symmetric",
    granularity: Granularity = PER_CHANNEL,
    keep: Collection[str] = (),
    first_and_last: int | None = 8,
    average: float | None = None,
    choices: Sequence[int] = (2, 3, 4, 8),
    sensitivity: str = "divergence",
    dynamic: bool = False,
    ranges: str | None = None,
    learned: Learned = "lsq",
    solver: Solver = "nearest",
    stats: Stats | None = None,
    batches: Batches | None = None,
    target: str | Target = "onnxruntime",
    seed: int = 0,
    progress: Progress | None = None,
) -> Plan:
    """A plan that stores a network in few bits; nothing is trained, and `network` stays as it is.

    `weights` and `activations` are bits, None: in float. The layers named in `keep`, and those whose operator `target`
    has no integer kernel for, stay in float. Layers with no other before or after them have at least `first_and_last`
    bits (None: like the others); raised above `weights` they are on the symmetric grid. `grid` and `granularity` are
    the weights'; activations are affine, one scale a tensor, with `dynamic` that of each tensor at run time where the
    target has a kernel for it. `ranges` (None: as suits the bits), `learned` and `solver` are `LayerDecision`'s.

    With `average`, the bits of each layer's weight are among `choices` instead, so that the network has at most so many
    bits a weight (layers in float do not count) and the layers' losses, by `sensitivity`, sum to the least:
    "divergence" measures the outputs on `batches`, "hessian" and "fisher" need `stats` with that statistic.
    Raises: ConfigError for what is unknown, does not go together or cannot be reached; PlanError, which says what the
    target can do, for bits, a grid or a granularity that it cannot.
    """
    asked = Asked(
        network=network,
        target=target_of(target) if isinstance(target, str) else target,
        grid=grid,
        granularity=granularity,
        wanted=frozenset([weights] if average is None else choices),
        activations=activations,
        dynamic=dynamic,
        keep=frozenset(keep),
        at_least=first_and_last or 1,
    )
    asked.check()
    if ranges is not None:
        RANGES.load(ranges)
    if average is None:
        bits = {weight.name: asked.raised(weight, weights) for weight in asked.weights}
    elif weights is None:
        raise ConfigError("quantize: an average is one of bits of weights; give weights, or leave average out")
    else:
        measure = _sensitivity(asked, sensitivity, stats, batches)
        bits = dict(_mixed(asked, average, measure, progress or Silent()))
    plan = asked.plan(bits, seed=seed, ranges=ranges, learned=learned, solver=solver)
    check(network, plan)
    return plan


def _sensitivity(asked: Asked, name: str, stats: Stats | None, batches: Batches | None) -> Sensitivity:
    """Raises: ConfigError for an unknown one, or without the statistics that it needs; TaskError without batches."""
    kind: type[Sensitivity] = SENSITIVITIES.load(name)
    missing = sorted(kind.needs.difference(stats.found if stats else ()))
    if missing:
        raise ConfigError(
            f"quantize: sensitivity {name!r} needs statistics ({', '.join(missing)}); give quantize(…, "
            "stats=collect(network, batches, loss, needs)), or take 'divergence'"
        )
    inputs = [inputs for inputs, _ in batches or ()]
    if kind.measures and not inputs:
        raise TaskError(f"quantize: {name!r} measures on batches and got none; give batches=[(inputs, target), …]")
    return kind(asked.network, stats or Stats(), inputs)


def _mixed(asked: Asked, average: float, measure: Sensitivity, progress: Progress) -> Mapping[str, int]:
    """The bits of every layer's weight under an average."""
    choices = sorted(bits for bits in asked.wanted if bits is not None)
    if not choices or average > max(choices):
        raise ConfigError(f"quantize: an average of {average:g} bits is above all choices {choices}; lower it")
    options = {weight.name: {asked.raised(weight, bits) for bits in choices} for weight in asked.weights}
    losses: dict[str, dict[int, float]] = {weight.name: {} for weight in asked.weights}
    with progress.stage("sensitivity", total=sum(map(len, options.values()))) as advance:
        for bits in sorted(set.union(*options.values())):
            weights = [weight for weight in asked.weights if bits in options[weight.name]]
            rounded = asked.rounded(weights, bits)
            for weight in weights:
                losses[weight.name][bits] = measure.loss(weight.parameter, rounded[weight.name])
                advance()
    module = asked.network.module
    entries = {weight.name: module.get_parameter(weight.parameter).numel() for weight in asked.weights}
    return choose_bits(losses, entries, average)
