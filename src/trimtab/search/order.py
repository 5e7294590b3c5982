"""Pruning and quantization in an order: what may be decided when, and what is trained between.

`joint` decides and trains both at once. The sequences are there to be compared with, and for whoever must: each stage
decides as well as it can, and of all ways to share the budget between the two the one of least predicted loss is taken.
"""

from collections.abc import Callable, Mapping

from trimtab.plan import Budget, Limit, Order, Plan
from trimtab.search.plan_search import choice_of, plan_of, predicted, search
from trimtab.search.profile import COST_QUANTITIES, Profile
from trimtab.search.space import FLOAT_BITS, Option, Unit

_SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
"""Of what the first stage alone can cost at most: what it leaves."""

_Offered = Callable[[Unit], tuple[Option, ...]]


def search_in_order(
    profile: Profile, budget: Budget, order: Order, *, tighten: Mapping[str, float] | None = None
) -> Plan | None:
    """The plan of least predicted loss within the cost limits of `budget` that `order` can arrive at; None without one.

    `tighten` as in `search`.
    """
    if order == "prune-then-quantize":
        return _in_stages(profile, budget, _for_kernels, _same_width, tighten)
    if order == "quantize-then-prune":
        return _in_stages(profile, budget, _whole, _same_storage, tighten)
    if order == "quantize-only":
        profile = _offering(profile, _whole)
    if order == "prune-only":
        profile = _offering(profile, _floating)
    return search(profile, budget, tighten=tighten)


def predicted_in_order(profile: Profile, plan: Plan, order: Order) -> dict[str, float]:
    """What the search expected of a plan that it gave for this order."""
    return predicted(_offering(profile, _floating) if order == "prune-only" else profile, plan)


def stages_of(plan: Plan, order: Order) -> tuple[Plan, ...]:
    """What is carried out and trained one after the other: each plan is the one before it and more."""
    halves = {"prune-then-quantize": {"layers": ()}, "quantize-then-prune": {"groups": (), "branches": ()}}
    half = plan.model_copy(update=halves.get(order, {}))
    return (half, plan) if half != plan and (half.thins or half.layers) else (plan,)


def _in_stages(
    profile: Profile,
    budget: Budget,
    first: _Offered,
    then: Callable[[Unit, Option], tuple[Option, ...]],
    tighten: Mapping[str, float] | None,
) -> Plan | None:
    """One half within a share of what it costs undone, then the other within the budget; the best of all shares."""
    alone = _offering(profile, first)
    most = predicted(alone, plan_of(alone, [_widest(unit) for unit in alone.units]))
    limited = [limit.quantity for limit in budget.limits if limit.quantity in COST_QUANTITIES]
    found: dict[Plan, float] = {}
    for share in _SHARES:
        limits = tuple(Limit(quantity=quantity, at_most=share * most[quantity]) for quantity in limited)
        half = search(alone, Budget(limits=limits))
        if half is None:
            continue
        indices = choice_of(alone, half)
        taken = {unit.name: unit.options[index] for unit, index in zip(alone.units, indices, strict=True)}
        plan = search(_offering(profile, lambda unit: then(unit, taken[unit.name])), budget, tighten=tighten)  # noqa: B023
        if plan is not None:
            found[plan] = predicted(profile, plan)["loss"]
    return min(found, key=lambda plan: found[plan]) if found else None


def _offering(profile: Profile, offered: _Offered) -> Profile:
    units = tuple(unit.model_copy(update={"options": offered(unit)}) for unit in profile.units)
    return profile.model_copy(update={"units": units})


def _whole(unit: Unit) -> tuple[Option, ...]:
    """Nothing is removed."""
    return tuple(option for option in unit.options if option.kept == unit.width)


def _for_kernels(unit: Unit) -> tuple[Option, ...]:
    """Stored as the kernels want it, which costs next to nothing: what is removed is decided as if in float."""
    stored = [option for option in unit.options if option.weight is not None]
    if not stored:
        return unit.options
    finest = max(stored, key=lambda option: option.fineness).storage
    return tuple(option for option in unit.options if option.storage == finest)


def _floating(unit: Unit) -> tuple[Option, ...]:
    """In float, with the losses of integer kernels where float was not measured."""
    floating = {"weight": None, "activation": None, "price": 0.0, "stored_bits": FLOAT_BITS}
    return tuple(option.model_copy(update=floating) for option in _for_kernels(unit))


def _same_width(unit: Unit, taken: Option) -> tuple[Option, ...]:
    return tuple(option for option in unit.options if option.kept == taken.kept)


def _same_storage(unit: Unit, taken: Option) -> tuple[Option, ...]:
    return tuple(option for option in unit.options if option.storage == taken.storage)


def _widest(unit: Unit) -> int:
    """The option of most channels and most bits."""
    return max(range(len(unit.options)), key=lambda i: (unit.options[i].kept, unit.options[i].fineness))
