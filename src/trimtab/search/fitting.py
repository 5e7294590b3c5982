"""From predicted to measured costs: the search is repeated with tighter bounds until the artifact itself fits."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from trimtab.plan import Budget, Limit, Order, Plan
from trimtab.search.order import search_in_order
from trimtab.search.profile import Profile
from trimtab.search.strategy import Judgement

_ROUNDS = 5
_MARGIN = 1.005


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

    Memory cannot be predicted: where it is too much, a smaller file is asked for.
    """
    tighten: dict[str, float] = {}
    searched = budget
    for _ in range(_ROUNDS):
        plan = search_in_order(profile, searched, order, tighten=tighten)
        if plan is None:
            return None
        judged = judge(plan)
        over = [limit for limit in judged.broken(budget, baseline) if limit.quantity != "drop"]
        if not over:
            return Fit(plan, judged, searched, tighten, order)
        for limit in over:
            if limit.quantity not in judged.costs:
                return None
            by = limit.bound(baseline.get(limit.quantity, 0.0)) / judged.costs[limit.quantity] / _MARGIN
            if limit.quantity == "memory":
                searched = _with_size(searched, judged.costs["size"] * by)
            else:
                tighten[limit.quantity] = tighten.get(limit.quantity, 1.0) * by
    return None


def _with_size(budget: Budget, at_most: float) -> Budget:
    """The budget with this limit on the size in place of its own."""
    others = tuple(limit for limit in budget.limits if limit.quantity != "size")
    return Budget(limits=(*others, Limit(quantity="size", at_most=at_most)))
