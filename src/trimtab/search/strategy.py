"""What to try next: the loop "train, judge, adjust, repeat" as a function of what was tried so far."""

import math
from collections.abc import Callable, Mapping, Sequence

from trimtab.plan import Budget, FrontierPoint, Limit, Plan, Record

LADDER = (1.0, 0.8, 0.65, 0.5, 0.4, 0.3, 0.22, 0.16, 0.12)
"""Sizes that are tried to draw the frontier, as fractions of the network with everything in integers."""

_BOLDER, _CLOSE = 0.75, 1.07
"""How much smaller the next try is while nothing was too small, and how near two sizes need to be to stop."""

_RECOVERS = 6.0
"""How many times the allowed drop a plan may lose before training and still be worth training."""


class Judgement(Record):
    """A candidate where choices are made: its costs in absolute units, and its drop on the validation split.

    `divergence` of its outputs there from the original's, where plans are refined.
    """

    costs: dict[str, float]
    drop: float
    divergence: float | None = None

    def broken(self, budget: Budget, baseline: Mapping[str, float]) -> list[Limit]:
        """The limits of `budget` that these values break; what could not be measured is not kept."""
        values = {**self.costs, "drop": self.drop}
        return [
            limit
            for limit in budget.limits
            if not limit.allows(values.get(limit.quantity, math.inf), baseline.get(limit.quantity, 0.0))
        ]


class Lesson(Record):
    """What a trained network still loses: the divergence of its outputs from the original's without any rounding, and
    what rounding adds.
    """

    removed: float
    rounded: float


class Attempt(Record):
    """A plan that was carried out, and what came of it. `continues`: the attempt that it was trained on from.

    The `lesson` of a plan that removes and rounds.
    """

    plan: Plan
    judgement: Judgement
    continues: int | None = None
    lesson: Lesson | None = None


class Rung(Record):
    """A plan of the ladder, judged without training. `fraction` of the all-integer network's size."""

    fraction: float
    plan: Plan
    judgement: Judgement

    def as_point(self) -> FrontierPoint:
        """For the report."""
        label = "int8" if self.fraction == 1.0 else f"int8 × {self.fraction:.2g}"
        return FrontierPoint(costs=self.judgement.costs, drop=self.judgement.drop, recovered=False, label=label)


class Proposal(Record):
    """What to try: a plan, from scratch or on the trained weights of an earlier attempt at the same plan."""

    plan: Plan
    continues: int | None = None


def propose(
    budget: Budget,
    baseline: Mapping[str, float],
    rungs: Sequence[Rung],
    tried: Sequence[Attempt],
    fitting: Callable[[Sequence[Attempt]], Plan | None],
    sized: Callable[[float], Plan | None],
    *,
    trains: bool,
    rounds: int | None,
) -> Proposal | None:
    """The next thing to try; None when the budget is met as well as can be, or there is nothing left to try.

    `fitting` gives the plan of least predicted loss whose artifact keeps all limits but the drop, with what the
    attempts have taught; `sized` that of at most so many bytes. `rounds` bounds the tries; None: nothing but the
    caller's patience.
    With limits on costs, the plan that fits is trained. While the drop is too large, another one is where the attempts
    say that the profile was wrong, else the best is trained on. With a limit on the drop alone the smallest network
    that keeps it is searched.
    """
    if len(tried) >= (1 if not trains else rounds or math.inf):
        return None
    if any(limit.quantity != "drop" for limit in budget.limits):
        if tried and not tried[-1].judgement.broken(budget, baseline):
            return None
        plan = fitting(tried)
        if plan is not None and plan not in [attempt.plan for attempt in tried]:
            return Proposal(plan=plan)
        best = best_of(budget, baseline, tried) if tried else None
        return None if best is None else Proposal(plan=tried[best].plan, continues=best)
    plan = _smaller_or_larger(budget.limits[0], rungs, tried, sized, trains=trains)
    return None if plan is None or plan in [attempt.plan for attempt in tried] else Proposal(plan=plan)


def _smaller_or_larger(
    drop: Limit,
    rungs: Sequence[Rung],
    tried: Sequence[Attempt],
    sized: Callable[[float], Plan | None],
    *,
    trains: bool,
) -> Plan | None:
    """What to try between the smallest that kept the drop and the largest below it that did not.

    The ladder says where to begin. Then sizes are halved (of their ratio), until the two are within 7 % of each other;
    while nothing was too small, each is a quarter smaller than the one before.
    """
    if not tried:
        worth = drop.model_copy(update={"at_most": drop.at_most * _RECOVERS}) if trains else drop
        promising = [rung for rung in rungs if worth.allows(rung.judgement.drop)]
        return (promising or rungs[:1])[-1].plan
    kept = [a.judgement.costs["size"] for a in tried if drop.allows(a.judgement.drop)]
    smallest = min(kept, default=rungs[0].judgement.costs["size"])
    lost = [a.judgement.costs["size"] for a in tried if not drop.allows(a.judgement.drop)]
    below = [size for size in lost if size < smallest]
    if not kept and not below:
        return None
    if not below:
        return sized(smallest * _BOLDER)
    if smallest / max(below) > _CLOSE:
        return sized(math.sqrt(smallest * max(below)))
    return None if kept else rungs[0].plan


def best_of(budget: Budget, baseline: Mapping[str, float], tried: Sequence[Attempt]) -> int:
    """The attempt to deliver: fewest limits broken, then the smallest drop beyond its limit, then the smallest file."""
    drop = budget.limit("drop")
    allowed = drop.at_most if drop is not None else float("-inf")

    def rank(attempt: Attempt) -> tuple[float, ...]:
        judged = attempt.judgement
        return len(judged.broken(budget, baseline)), max(0.0, judged.drop - allowed), judged.costs["size"], judged.drop

    return min(range(len(tried)), key=lambda i: rank(tried[i]))


def nearest_rung(budget: Budget, baseline: Mapping[str, float], rungs: Sequence[Rung]) -> Rung:
    """Where no plan keeps the cost limits: the smallest rung that keeps the drop, else the least drop."""
    drop = budget.limit("drop")
    keeping = [rung for rung in rungs if drop is None or drop.allows(rung.judgement.drop)]
    return keeping[-1] if keeping else min(rungs, key=lambda rung: rung.judgement.drop)
