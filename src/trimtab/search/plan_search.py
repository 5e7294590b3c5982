"""From a profile and a budget to a plan."""

from collections.abc import Mapping, Sequence

from trimtab.errors import ConfigError
from trimtab.plan import BranchDecision, Budget, GroupDecision, LayerDecision, Limit, Plan
from trimtab.quant.ranges import suited_to
from trimtab.search.allocate import Cost, allocate
from trimtab.search.costs import Costs
from trimtab.search.profile import COST_QUANTITIES, Profile
from trimtab.search.space import Option, Storage, Unit, evaluate_terms, solver_of


def search(profile: Profile, budget: Budget, *, tighten: Mapping[str, float] | None = None) -> Plan | None:
    """The plan with the least predicted loss within all cost limits of `budget`; None when no option is small enough.

    `tighten` multiplies the bound of a quantity, by what an earlier round has learnt about its prediction.
    """
    costs = all_costs(profile)
    limits = []
    for limit in budget.limits:
        if limit.quantity in COST_QUANTITIES:
            if limit.quantity not in costs or limit.quantity not in profile.baseline:
                raise ConfigError(
                    f"budget: {limit.quantity} was not measured in this profile; profile again with that limit"
                )
            bound = limit.bound(profile.baseline[limit.quantity]) * (tighten or {}).get(limit.quantity, 1.0)
            limits.append((costs[limit.quantity], bound))
    choice = allocate(costs["loss"], limits, [len(unit.options) for unit in profile.units])
    return None if choice is None else plan_of(profile, choice)


def widest_plan(profile: Profile) -> Plan:
    """Nothing removed, everything stored as the target's integer kernels want it."""

    def width(option: Option) -> tuple[int, bool, tuple[int, float]]:
        return option.kept, option.weight is not None, option.fineness

    return plan_of(profile, [unit.options.index(max(unit.options, key=width)) for unit in profile.units])


def anchored(profile: Profile, plan: Plan, measured: Mapping[str, float]) -> Profile:
    """The profile with predictions of sizes set right on one artifact that was really written."""
    foreseen = predicted(profile, plan)
    missing = {name: measured[name] - foreseen[name] for name in ("size", "stored_size") if name in measured}
    overhead = {name: profile.overhead.get(name, 0.0) + more for name, more in missing.items()}
    return profile.model_copy(update={"overhead": {**profile.overhead, **overhead}})


def least(profile: Profile, quantity: str, under: Sequence[Limit] = ()) -> float | None:
    """The least of one quantity that a plan reaches which keeps the limits `under`; None when none does."""
    costs = all_costs(profile)
    limits = [(costs[limit.quantity], limit.bound(profile.baseline[limit.quantity])) for limit in under]
    choice = allocate(costs[quantity], limits, [len(unit.options) for unit in profile.units])
    return None if choice is None else costs[quantity].at(choice)


def predicted(profile: Profile, plan: Plan) -> dict[str, float]:
    """Predicted loss and costs of a plan whose choices are on offer in the profile."""
    choice = choice_of(profile, plan)
    return {quantity: cost.at(choice) for quantity, cost in all_costs(profile).items()}


def all_costs(profile: Profile) -> dict[str, Cost]:
    """Loss and every profiled quantity as costs over the options, in absolute units."""
    costs = Costs(profile.units, profile.layers)
    found = {"loss": costs.loss(), "size": costs.size(), "macs": costs.macs(), "bops": costs.bops()}
    if "stored_size" in profile.baseline:
        found["stored_size"] = costs.stored_size()
    for quantity, more in profile.overhead.items():
        found[quantity].constant += more
    if profile.latency_table:
        fit = profile.latency_fit
        found["latency"] = Cost(constant=fit.constant)
        weights = (fit.of_sum, fit.of_macs, fit.of_layers)
        for part, weight in zip(_latency_parts(profile, costs), weights, strict=True):
            found["latency"].include(part.scaled(weight))
    return found


def latency_parts(profile: Profile, plan: Plan) -> tuple[float, float, float]:
    """What a latency model is made of: the sum of the times of a plan's layers (ms), their MACs, their number."""
    choice = choice_of(profile, plan)
    by_sum, by_macs, by_layers = _latency_parts(profile, Costs(profile.units, profile.layers))
    return by_sum.at(choice), by_macs.at(choice), by_layers.at(choice)


def _latency_parts(profile: Profile, costs: Costs) -> tuple[Cost, Cost, Cost]:
    return costs.latency(profile.latency_table), costs.macs(), costs.present()


def plan_of(profile: Profile, choice: Sequence[int]) -> Plan:
    """The plan that takes option `choice[u]` of every unit; of what is in a removed branch it says nothing."""
    taken = {unit.name: unit.options[index] for unit, index in zip(profile.units, choice, strict=True)}
    groups, branches, layers = [], [], []
    inputs = _inputs(profile)
    for unit in profile.units:
        option = taken[unit.name]
        if not all(taken[name].kept for name in unit.within):
            continue
        if unit.branch is not None and not option.kept:
            branches.append(BranchDecision(branch=unit.branch, removed=True))
        if unit.group is not None and option.kept < unit.width:
            groups.append(GroupDecision(group=unit.group, kept=tuple(sorted(unit.order[: option.kept]))))
        if option.weight is not None:
            layers += [_stored(name, option, inputs[name]) for name in unit.layers]
    return Plan(
        fingerprint=profile.fingerprint,
        target=profile.target,
        seed=profile.seed,
        groups=tuple(groups),
        branches=tuple(branches),
        layers=tuple(layers),
    )


def _inputs(profile: Profile) -> dict[str, int]:
    """How many inputs an output of each layer has, nothing removed."""
    full = {unit.name: unit.width for unit in profile.units}
    return {
        layer.name: evaluate_terms(layer.weights, full) // evaluate_terms(layer.outputs, full)
        for layer in profile.layers
    }


def _stored(layer: str, option: Option, inputs: int) -> LayerDecision:
    """Below the bits of the kernels the nearest codes are not good enough, and the widest range is too wide."""
    assert option.weight is not None
    return LayerDecision(
        layer=layer,
        weight=option.weight,
        activation=option.activation,
        ranges=suited_to(option.activation.bits) if option.activation else "minmax",
        solver=solver_of(option.price, inputs) if option.solved else "nearest",
        price=option.price,
    )


def option_of(unit: Unit, plan: Plan) -> Option:
    """What a plan decides about a unit, on offer or not. Its loss is not known."""
    kept = {decision.group: len(decision.kept) for decision in plan.groups}
    removed = {decision.branch for decision in plan.branches if decision.removed}
    stored = {decision.layer: decision for decision in plan.layers}
    decision = stored.get(unit.layers[0]) if unit.layers else None
    storage = Storage(None, None) if decision is None else Storage(decision.weight, decision.activation, decision.price)
    width = kept.get(unit.group or "", 0 if unit.branch in removed else unit.width)
    return Option(kept=width, **storage._asdict())


def choice_of(profile: Profile, plan: Plan) -> list[int]:
    """The option of every unit that a plan of this profile takes; any where it says nothing. Raises: ConfigError."""
    removed = {decision.branch for decision in plan.branches if decision.removed}
    choice = []
    for unit in profile.units:
        wanted = option_of(unit, plan)
        offered = [(option.kept, option.storage) for option in unit.options]
        taken = wanted.kept, wanted.storage
        if taken not in offered and unit.branch not in removed and not removed.intersection(unit.within):
            raise ConfigError(
                f"unit {unit.name!r}: width {wanted.kept} with {wanted.weight} is not an option of this profile"
            )
        choice.append(offered.index(taken) if taken in offered else 0)
    return choice
