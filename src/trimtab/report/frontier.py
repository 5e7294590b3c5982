"""Where the dots, lines and ticks of the frontier chart go: cost along a logarithmic axis, drop along a linear one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.plan import FrontierPoint, Result
from trimtab.report.summary import NAMES, text_of, value_of

WIDTH, HEIGHT = 760, 340
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 18, 46


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A point in the units of the drawing. `kind` is a CSS class; `beyond` says that it lies above the drawn range."""

    x: float
    y: float
    kind: str
    title: str
    beyond: bool = False


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A mark on an axis."""

    at: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """All that the template draws."""

    cost: str
    dots: tuple[Dot, ...]
    best: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    cost_limit: Tick | None
    drop_limit: Tick | None
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def chart(result: Result) -> Chart | None:
    """The frontier over the cost that the budget limits (else the first known); None when no point was evaluated."""
    quantity = _cost(result)
    points = [point for point in result.frontier if quantity in point.costs and point.costs[quantity] > 0]
    if not quantity or not points:
        return None
    cost_limit, drop_limit = result.budget.limit(quantity), result.budget.limit("drop")  # type: ignore[arg-type]
    before, after = value_of(quantity, result.baseline), value_of(quantity, result.compressed)
    bound = cost_limit.bound(before or 0.0) if cost_limit else None
    costs = [point.costs[quantity] for point in points] + [cost for cost in (bound, before, after) if cost]
    across = _Logarithmic(min(costs), max(costs))
    up = _Linear(*_drop_range(points, result))
    dots = [_dot(point, quantity, across, up) for point in points]
    if before:
        dots.append(Dot(x=across(before), y=up(0), kind="before", title=f"original: {text_of(quantity, before)}"))
    if after:
        title = f"artifact, on test: {text_of(quantity, after)}, drop {text_of('drop', result.drop.value)}"
        beyond = result.drop.value > up.high
        dots.append(Dot(x=across(after), y=up(result.drop.value), kind="artifact", title=title, beyond=beyond))
    return Chart(
        cost=NAMES[quantity],
        dots=tuple(dots),
        best=_staircase([(across(cost), up(drop)) for cost, drop in _pareto(points, quantity) if drop <= up.high]),
        x_ticks=tuple(Tick(at=across(value), text=text_of(quantity, value)) for value in across.ticks()),
        y_ticks=tuple(Tick(at=up(value), text=f"{value:.4g}".replace("-", "−")) for value in up.ticks()),
        cost_limit=Tick(at=across(bound), text=f"limit {text_of(quantity, bound)}") if bound else None,
        drop_limit=Tick(at=up(drop_limit.at_most), text=f"limit {drop_limit.at_most:.4g}") if drop_limit else None,
    )


class _Logarithmic:
    """Costs to horizontal places."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low / 1.25, high * 1.25

    def __call__(self, value: float) -> float:
        part = math.log(value / self.low) / math.log(self.high / self.low)
        return round(LEFT + part * (WIDTH - LEFT - RIGHT), 1)

    def ticks(self) -> list[float]:
        """1, 2, 5 of each power of ten; only the powers when that is too many."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for steps in ((1, 2, 5), (1,)):
            found = [step * 10.0**power for power in powers for step in steps]
            found = [value for value in found if self.low <= value <= self.high]
            if len(found) <= 9:
                break
        return found


class _Linear:
    """Drops to vertical places; what is above `high` is put on the upper edge."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def __call__(self, value: float) -> float:
        part = (min(value, self.high) - self.low) / (self.high - self.low)
        return round(HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM), 1)

    def ticks(self) -> list[float]:
        """Four to eight round values."""
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if step >= rough)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [index * step for index in range(first, last + 1)]


def _cost(result: Result) -> str:
    known = {name for point in result.frontier for name in point.costs if name in NAMES and name != "drop"}
    limited = [limit.quantity for limit in result.budget.limits if limit.quantity in known]
    return limited[0] if limited else next((name for name in NAMES if name in known), "")


def _drop_range(points: Sequence[FrontierPoint], result: Result) -> tuple[float, float]:
    """Enough for the artifact, the limit and the better half of the points: one ruin must not flatten the rest."""
    drops = sorted(point.drop for point in points)
    limit = result.budget.limit("drop")
    high = max(drops[len(drops) // 2], result.drop.value, 2 * limit.at_most if limit else 0.0, 1e-3)
    low = min(drops[0], result.drop.value, 0.0)
    margin = 0.08 * (high - low)
    return low - margin, high + margin


def _dot(point: FrontierPoint, quantity: str, across: _Logarithmic, up: _Linear) -> Dot:
    cost = point.costs[quantity]
    label = f"{point.label}: " if point.label else ""
    trained = ", recovered" if point.recovered else ""
    return Dot(
        x=across(cost),
        y=up(point.drop),
        kind="recovered" if point.recovered else "tried",
        title=f"{label}{text_of(quantity, cost)}, drop {text_of('drop', point.drop)} on val{trained}",
        beyond=point.drop > up.high,
    )


def _pareto(points: Sequence[FrontierPoint], quantity: str) -> list[tuple[float, float]]:
    """The points that no other beats in both cost and drop, from cheap to dear."""
    best: list[tuple[float, float]] = []
    for cost, drop in sorted((point.costs[quantity], point.drop) for point in points):
        if not best or drop < best[-1][1]:
            best.append((cost, drop))
    return best


def _staircase(places: Sequence[tuple[float, float]]) -> str:
    """An SVG path from the upper edge: flat to the right until the next point brings the drop down."""
    if not places:
        return ""
    steps = [f"M{places[0][0]} {TOP}V{places[0][1]}"]
    steps += [f"H{x}V{y}" for x, y in places[1:]]
    return "".join(steps)
