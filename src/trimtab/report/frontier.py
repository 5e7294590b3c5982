"""What the frontier shows: over which cost, in which range of drops, and which points no other beats."""

from collections.abc import Sequence

from trimtab.plan import FrontierPoint, Result
from trimtab.report.summary import NAMES


def cost_of(result: Result) -> str:
    """The cost that the budget limits, else the first known; empty when no point was evaluated."""
    known = {name for point in result.frontier for name in point.costs if name in NAMES and name != "drop"}
    limited = [limit.quantity for limit in result.budget.limits if limit.quantity in known]
    return limited[0] if limited else next((name for name in NAMES if name in known), "")


def drop_range(points: Sequence[FrontierPoint], result: Result) -> tuple[float, float]:
    """Enough for the artifact, the limit and the better half of the points: one ruin must not flatten the rest."""
    drops = sorted(point.drop for point in points)
    limit = result.budget.limit("drop")
    high = max(drops[len(drops) // 2], result.drop.value, 2 * limit.at_most if limit else 0.0, 1e-3)
    low = min(drops[0], result.drop.value, 0.0)
    margin = 0.08 * (high - low)
    return low - margin, high + margin


def pareto(points: Sequence[FrontierPoint], quantity: str) -> list[tuple[float, float]]:
    """Cost and drop of the points that no other beats in both, from cheap to dear."""
    best: list[tuple[float, float]] = []
    for cost, drop in sorted((point.costs[quantity], point.drop) for point in points):
        if not best or drop < best[-1][1]:
            best.append((cost, drop))
    return best
