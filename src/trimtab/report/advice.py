"""What to try next: from what a run has measured to the option that would change it."""

from trimtab.plan import Result
from trimtab.report import numbers
from trimtab.report.summary import NAMES, limit_rows, text_of

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
    broken = [row.quantity for row in limit_rows(result) if not row.holds]
    found = []
    if "drop" in broken:
        found.append("give recovery more time: --minutes or --epochs; or allow a larger file or a longer latency")
    drop = result.budget.limit("drop")
    inside = [point for point in result.frontier if drop is None or drop.allows(point.drop)]
    for quantity in broken:
        costs = [point.costs[quantity] for point in inside if quantity in point.costs]
        if costs:
            found.append(
                f"the least {NAMES[quantity]} within the drop was {text_of(quantity, min(costs))}: ask for that with "
                f"--{quantity.replace('_', '-')}, or try --refine tpe, which judges more plans"
            )
    return found


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
    for row in limit_rows(result):
        if row.used is not None and row.used <= _SLACK:
            what = "remove more: set a lower --size or --latency" if row.quantity == "drop" else "lose less: loosen it"
            found.append(f"{row.name}: {numbers.percent(1 - row.used, 0)} of the limit is not used; you could {what}")
    return found
