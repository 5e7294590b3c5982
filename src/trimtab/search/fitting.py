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
    bounds, searched, best = _Bounds(), budget, None
    for _ in range(_ROUNDS):
        plan = search_in_order(profile, searched, order, tighten=bounds.asked)
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
        if over:
            if "memory" in over:
                searched = _with_size(searched, judged.costs["size"] * room["memory"] / _MARGIN)
            for quantity in set(over) - {"memory"}:
                bounds.tighten(quantity, room[quantity])
            continue
        best = Fit(plan, judged, searched, dict(bounds.asked), order)
        nearest = min(room, key=room.__getitem__, default="memory")
        expected = predicted_in_order(profile, plan, order)
        if nearest not in expected or room[nearest] < _WORTH:
            return best
        if not bounds.loosen(nearest, expected[nearest] / judged.costs[nearest]):
            return best
    return best


class _Bounds:
    """By which factor the search's bound on a quantity differs from the limit, between what fitted and what did not."""

    def __init__(self) -> None:
        self.asked: dict[str, float] = {}
        self._fitted: dict[str, float] = {}
        self._too_much: dict[str, float] = {}

    def tighten(self, quantity: str, room: float) -> None:
        """After a plan that has only `room` (below 1) of what it would need."""
        self._too_much[quantity] = self.asked.get(quantity, 1.0)
        fitted = self._fitted.get(quantity)
        self.asked[quantity] = (
            self._too_much[quantity] * room / _MARGIN
            if fitted is None
            else math.sqrt(fitted * self._too_much[quantity])
        )

    def loosen(self, quantity: str, right: float) -> bool:
        """After a plan that fitted, predicted `right` times too large; False where that is not worth another search."""
        self._fitted[quantity] = self.asked.get(quantity, 1.0)
        if right / _MARGIN / self._fitted[quantity] < _WORTH:
            return False
        too_much = self._too_much.get(quantity)
        self.asked[quantity] = right / _MARGIN if too_much is None else math.sqrt(self._fitted[quantity] * too_much)
        return True


def _with_size(budget: Budget, at_most: float) -> Budget:
    """The budget with this limit on the size in place of its own."""
    others = tuple(limit for limit in budget.limits if limit.quantity != "size")
    return budget.model_copy(update={"limits": (*others, Limit(quantity="size", at_most=at_most))})
