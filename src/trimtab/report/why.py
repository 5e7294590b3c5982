"""Why it is not faster, as rows of text: the same for the terminal and for the page."""

from collections.abc import Mapping
from dataclasses import dataclass

from rich.text import Text

from trimtab.measure import by_family
from trimtab.plan import Hotspots, Timeline
from trimtab.report import numbers
from trimtab.report.summary import factor

_MOST_LAYERS, _MOST_LINES = 10, 4


@dataclass(frozen=True, kw_only=True)
class TimeRow:
    """A family of operators, or a layer, in the float network and in the artifact. Bars are shares of the longest."""

    name: str
    before: str
    after: str
    change: str
    before_bar: float
    after_bar: float


def time_rows(found: Hotspots) -> tuple[TimeRow, ...]:
    """By family of operators, those that take longest on either side first."""
    return _rows(by_family(found.before) if found.before else None, by_family(found.after))


def layer_rows(found: Hotspots) -> tuple[TimeRow, ...]:
    """The layers of the artifact that take longest."""
    return _rows(None, dict(sorted(by_layer(found.after).items(), key=lambda item: -item[1])[:_MOST_LAYERS]))


def by_layer(timeline: Timeline | None) -> dict[str, float]:
    """Milliseconds of each layer, where the runtime tells of which layer a kernel is."""
    sums: dict[str, float] = {}
    for operator in timeline.operators if timeline else ():
        if operator.layer:
            sums[operator.layer] = sums.get(operator.layer, 0.0) + operator.milliseconds
    return sums


def _rows(before: Mapping[str, float] | None, after: Mapping[str, float]) -> tuple[TimeRow, ...]:
    known = before or {}
    longest = {name: max(known.get(name, 0.0), after.get(name, 0.0)) for name in {**known, **after}}
    most = max(longest.values(), default=0.0) or 1.0
    return tuple(
        TimeRow(
            name=name,
            before=_time(known.get(name)),
            after=_time(after.get(name)),
            change=factor(known.get(name, 0.0), after.get(name, 0.0)),
            before_bar=known.get(name, 0.0) / most,
            after_bar=after.get(name, 0.0) / most,
        )
        for name in sorted(longest, key=lambda name: -longest[name])
    )


def why_conditions(found: Hotspots) -> str:
    """On what it ran, and how the times are to be read."""
    dots = found.cpu.integer_dots
    known = (
        "instructions for int8 products not known" if dots is None else f"int8 products by {', '.join(dots) or 'none'}"
    )
    runs = [f"artifact {_whole(found.after)}", *([f"float {_whole(found.before)}"] if found.before else [])]
    return (
        f"{found.cpu.name}, {found.threads} of {found.cpu.cores} cores, {known}. A run without the profiler: "
        f"{', '.join(runs)}; the profiler adds a few microseconds to each operator."
    )


def why_lines(found: Hotspots) -> Text:
    """The findings that take most of the time, a line each, for the terminal."""
    ranked = sorted(found.findings, key=lambda finding: -(finding.share or 0.0))[:_MOST_LINES]
    if not ranked:
        return Text("why not faster: nothing stands out; the time is integer arithmetic", "dim")
    lines = [Text.assemble("• ", finding.says, Text(f"; {finding.remedy}", "dim")) for finding in ranked]
    return Text("\n").join([Text("why not faster:", "bold"), *lines])


def _whole(timeline: Timeline) -> str:
    return numbers.milliseconds(timeline.total_ms)


def _time(milliseconds: float | None) -> str:
    return "" if milliseconds is None else numbers.milliseconds(milliseconds)
