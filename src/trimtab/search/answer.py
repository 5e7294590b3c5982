"""What is said of a budget that is not kept: limits that no plan keeps together, and the nearest that can be kept."""

from collections.abc import Iterable, Mapping
from itertools import combinations

from trimtab.plan import Budget, Limit
from trimtab.search.plan_search import least
from trimtab.search.profile import COST_QUANTITIES, Profile
from trimtab.search.strategy import Judgement


def contradictions(profile: Profile, budget: Budget, baseline: Mapping[str, float]) -> list[str]:
    """Limits on costs that no option keeps, alone; of the others, two by two, those that exclude each other."""
    limits = [limit for limit in budget.limits if limit.quantity in COST_QUANTITIES and limit.quantity in baseline]
    found, possible = [], []
    for limit in limits:
        lowest = least(profile, limit.quantity)
        assert lowest is not None  # without limits there is always one
        if limit.allows(lowest, baseline[limit.quantity]):
            possible.append(limit)
        else:
            found.append(f"the smallest {limit.quantity} within reach is {amount(limit.quantity, lowest)}")
    for one, other in combinations(possible, 2):
        lowest = least(profile, other.quantity, (one,))
        if lowest is None or not other.allows(lowest, baseline[other.quantity]):
            bound = amount(one.quantity, one.bound(baseline[one.quantity]))
            wanted = amount(other.quantity, other.bound(baseline[other.quantity]))
            at_least = "none" if lowest is None else amount(other.quantity, lowest)
            found.append(
                f"{one.quantity} {bound} and {other.quantity} {wanted} exclude each other: "
                f"within the first the least {other.quantity} is {at_least}"
            )
    return found


def nearest(budget: Budget, baseline: Mapping[str, float], judged: Iterable[Judgement]) -> list[str]:
    """On each side of the budget the nearest that was judged: costs kept, with its drop; drop kept, at its costs.

    Of those that keep the drop, the one whose worst cost is least over its limit.
    """
    drop = budget.limit("drop")
    costs = [limit for limit in budget.limits if limit.quantity != "drop"]
    if drop is None or not costs:
        return []

    def over(judgement: Judgement, limit: Limit) -> float:
        bound = limit.bound(baseline.get(limit.quantity, 0.0))
        return judgement.costs.get(limit.quantity, float("inf")) / bound

    def worst(judgement: Judgement) -> float:
        return max(over(judgement, limit) for limit in costs)

    judged = list(judged)
    within = [j for j in judged if not [limit for limit in j.broken(budget, baseline) if limit.quantity != "drop"]]
    keeping = [j for j in judged if drop.allows(j.drop)]
    chosen = [min(within, key=lambda j: j.drop)] if within else []
    chosen += [min(keeping, key=worst)] if keeping else []
    found = []
    for judgement in chosen:
        known = [limit.quantity for limit in costs if limit.quantity in judgement.costs]
        at = ", ".join(f"{name} {amount(name, judgement.costs[name])}" for name in known)
        found.append(f"at {at}: drop {judgement.drop:.4f}")
    return list(dict.fromkeys(found))


def amount(quantity: str, value: float) -> str:
    """A cost with its unit."""
    if quantity in {"size", "stored_size", "memory"}:
        return f"{value:.0f} bytes"
    return f"{value:.4g} ms" if quantity == "latency" else f"{value:.4g}"
