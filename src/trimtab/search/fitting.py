"""From predicted to measured costs: the search is repeated with other bounds until the artifact itself just fits."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from trimtab.plan import Budget, Limit, Order, Plan
from trimtab.search.order import predicted_in_order, search_in_order
from trimtab.search.profile import Profile
from trimtab.search.strategy import Judgement

_ROUNDS = 6
_MARGIN = 1.005
_WORTH = 1.03
"""Where a bound can be loosened by more than this, a plan that removes less is looked for."""


class Fit(NamedTuple):
    """A plan whose artifact fits, and what the search had to be asked for, so that it does."""

    plan: Plan
    judgement: Judgement
    budget: Budget
    tighten: Mapping[str, float]
    order: Order


def find_fit(
    profile: Profile,
    budget: Budget,
    baseline: Mapping[str, float],
    judge: Callable[[Plan], Judgement],
    order: Order = "joint",
) -> Fit | None:
    """The plan of least predicted loss whose artifact, as judged, keeps every limit but the drop; None if none does.

    Predictions err both ways: a bound that came out too large is tightened, one that came out too small is loosened,
    between what fitted and what did not. Memory cannot be predicted: where it is too much, a smaller file is asked for.
    """
    tighten: dict[str, float] = {}
    too_much: dict[str, float] = {}
    searched, best = budget, None
    for _ in range(_ROUNDS):
        plan = search_in_order(profile, searched, order, tighten=tighten)
        if plan is None:
            return best
        judged = best.judgement if best is not None and plan == best.plan else judge(plan)
        room: dict[str, float] = {
            limit.quantity: limit.bound(baseline.get(limit.quantity, 0.0)) / judged.costs[limit.quantity]
            for limit in budget.limits
            if limit.quantity in judged.costs
        }
        over: list[str] = [limit.quantity for limit in judged.broken(budget, baseline) if limit.quantity != "drop"]
        if any(quantity not in room for quantity in over):
            return best
        if not over:
            best = Fit(plan, judged, searched, dict(tighten), order)
            nearest = min(room, key=room.__getitem__, default="memory")
            expected = predicted_in_order(profile, plan, order)
            if nearest not in expected:
                return best
            asked, right = tighten.get(nearest, 1.0), expected[nearest] / judged.costs[nearest] / _MARGIN
            if min(room[nearest], right / asked) < _WORTH:
                return best
            tighten[nearest] = math.sqrt(asked * too_much[nearest]) if nearest in too_much else right
            continue
        for quantity in over:
            if quantity == "memory":
                searched = _with_size(searched, judged.costs["size"] * room[quantity] / _MARGIN)
                continue
            too_much[quantity] = tighten.get(quantity, 1.0)
            tighten[quantity] = too_much[quantity] * room[quantity] / _MARGIN
            if best is not None:
                tighten[quantity] = math.sqrt(best.tighten.get(quantity, 1.0) * too_much[quantity])
    return best


def _with_size(budget: Budget, at_most: float) -> Budget:
    """The budget with this limit on the size in place of its own."""
    others = tuple(limit for limit in budget.limits if limit.quantity != "size")
    return Budget(limits=(*others, Limit(quantity="size", at_most=at_most)))
