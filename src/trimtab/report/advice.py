"""What to try next: from what a run has measured to the option that would change it."""

from trimtab.plan import Result
from trimtab.report import numbers
from trimtab.report.summary import NAMES, text_of, value_of

_SLACK = 0.7
_SLOW = 0.9


def advice(result: Result) -> tuple[str, ...]:
    """Sentences, the most useful first; a run that met its budget gets told where there is room."""
    found = [*_unmet(result), *_behaviour(result), *_speed(result)]
    if result.met:
        found += _room(result)
    return tuple(found) or ("nothing: every limit is nearly used up, and nothing stands out",)


def _unmet(result: Result) -> list[str]:
    """What would make a budget possible that was not met."""
    broken = [limit for limit in result.budget.limits if not _holds(result, limit.quantity)]
    if not broken:
        return []
    found = []
    drop = result.budget.limit("drop")
    if any(limit.quantity == "drop" for limit in broken):
        found.append("give recovery more time: --minutes or --epochs; or allow a larger file or a longer latency")
    inside = [point for point in result.frontier if drop is None or drop.allows(point.drop)]
    for limit in broken:
        costs = [point.costs[limit.quantity] for point in inside if limit.quantity in point.costs]
        if limit.quantity != "drop" and costs:
            name = limit.quantity.replace("_", "-")
            found.append(
                f"the least {NAMES[limit.quantity]} within the drop was {text_of(limit.quantity, min(costs))}: "
                f"ask for that with --{name}, or try --refine tpe, which judges more plans"
            )
    return found


def _holds(result: Result, quantity: str) -> bool:
    limit = result.budget.limit(quantity)  # type: ignore[arg-type]
    assert limit is not None
    if quantity == "drop":
        return limit.allows(result.drop.limited)
    measured = value_of(quantity, result.compressed)
    return measured is not None and limit.allows(measured, value_of(quantity, result.baseline) or 0.0)


def _behaviour(result: Result) -> list[str]:
    checks = result.behaviour.checks if result.behaviour else ()
    return [f"{check.name}: {check.verdict}" for check in checks if not check.holds]


def _speed(result: Result) -> list[str]:
    """Where a smaller network is hardly faster."""
    before, after = result.baseline.latency_ms, result.compressed.latency_ms
    if before is None or after is None or after < _SLOW * before:
        return []
    found = ["it is hardly faster: limit the latency itself (--latency 0.5x); sizes and MACs do not tell it"]
    worst = max(result.hotspots.findings, key=lambda of: of.share or 0.0, default=None) if result.hotspots else None
    return found + ([f"most of the time that could be saved: {worst.says}; {worst.remedy}"] if worst else [])


def _room(result: Result) -> list[str]:
    """Limits that are far from used up."""
    found = []
    for limit in result.budget.limits:
        before = value_of(limit.quantity, result.baseline) if limit.quantity != "drop" else 0.0
        measured = result.drop.value if limit.quantity == "drop" else value_of(limit.quantity, result.compressed)
        bound = limit.bound(before or 0.0)
        if measured is None or bound <= 0 or measured > _SLACK * bound:
            continue
        left = numbers.percent(1 - max(0.0, measured) / bound, 0)
        what = "remove more: set a lower --size or --latency" if limit.quantity == "drop" else "or lose less: loosen it"
        found.append(f"{NAMES[limit.quantity]}: {left} of the limit is not used; you could {what}")
    return found
