"""The page's figures, as Plotly draws them, each with its numbers as a table for whoever cannot see or hover."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.plan import Aspect, Check, Result
from trimtab.report import frontier, numbers, why
from trimtab.report.details import Histogram, ReportDetails, Sensitivity
from trimtab.report.sensitivity import CHOICES
from trimtab.report.summary import NAMES, text_of, value_of

BEFORE, AFTER, GOOD, WARM, SOFT = "#5b8fa8", "#c8781a", "#2e8b5c", "#b3574a", "#7c8a92"
COLOURS = (AFTER, BEFORE, GOOD, WARM, "#8e6bb0", "#b59b2c", SOFT)
_MOST_BARS = 40
_HEIGHT = 340


@dataclass(frozen=True, kw_only=True)
class Figure:
    """`spec` is JSON for `Plotly.newPlot`; `says` describes the picture in a sentence; the table has the numbers."""

    name: str
    says: str
    spec: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def figures(result: Result, details: ReportDetails) -> dict[str, Figure]:
    """By name; a figure that has nothing to show is not among them."""
    found = [
        _frontier(result),
        _bytes(details),
        _milliseconds(result),
        _sensitivity(details.sensitivity),
        _weights(details.histograms),
        *(_aspects(check) for check in (result.behaviour.checks if result.behaviour else ())),
    ]
    return {figure.name: figure for figure in found if figure is not None}


def _frontier(result: Result) -> Figure | None:
    quantity = frontier.cost_of(result)
    points = [point for point in result.frontier if point.costs.get(quantity, 0) > 0]
    if not points:
        return None
    low, high = frontier.drop_range(points, result)
    traces, rows = [], []
    for recovered, name in ((False, "without training, on val"), (True, "recovered, on val")):
        of = [point for point in points if point.recovered == recovered]
        said = [
            f"{point.label or 'plan'}: {text_of(quantity, point.costs[quantity])}, drop {text_of('drop', point.drop)}"
            for point in of
        ]
        marker = {"size": 9, "color": BEFORE, "symbol": "circle" if recovered else "circle-open", "line": {"width": 2}}
        traces.append(_dots([p.costs[quantity] for p in of], [p.drop for p in of], name, said, marker))
        rows += [
            (point.label or "plan", text_of(quantity, point.costs[quantity]), text_of("drop", point.drop), name)
            for point in of
        ]
    best = frontier.pareto(points, quantity)
    line = {"shape": "hv", "color": BEFORE, "width": 1.5}
    traces.append(_line([cost for cost, _ in best], [drop for _, drop in best], "best of them", line))
    for name, measured, drop, colour, symbol in (
        ("original", result.baseline, 0.0, SOFT, "circle"),
        ("artifact, on test", result.compressed, result.drop.value, AFTER, "diamond"),
    ):
        cost = value_of(quantity, measured)
        if cost:
            said = [f"{name}: {text_of(quantity, cost)}, drop {text_of('drop', drop)}"]
            traces.append(_dots([cost], [drop], name, said, {"size": 13, "color": colour, "symbol": symbol}))
            rows.append((name, text_of(quantity, cost), text_of("drop", drop), ""))
    layout = {
        "xaxis": {"type": "log", "title": {"text": NAMES[quantity]}, "tickformat": "~s", "dtick": "D2"},
        "yaxis": {"title": {"text": "drop of the metric"}, "range": [low, high]},
        "shapes": list(_limits(result, quantity)),
    }
    return Figure(
        name="frontier",
        says=f"{len(points)} plans: drop of the metric against {NAMES[quantity]}, with the limits",
        spec=_spec(traces, layout),
        columns=("plan", NAMES[quantity], "drop", ""),
        rows=tuple(rows),
    )


def artifacts(results: Mapping[str, Result]) -> Figure | None:
    """The artifacts of several runs: drop against size, on test."""
    sized = {name: result for name, result in results.items() if result.compressed.file_bytes}
    if not sized:
        return None
    traces, rows = [], []
    for number, (name, result) in enumerate(sized.items()):
        size, drop = float(result.compressed.file_bytes or 0), result.drop.value
        said = f"{name}: {numbers.size(size)}, drop {text_of('drop', drop)}"
        marker = {"size": 13, "symbol": "diamond", "color": COLOURS[number % len(COLOURS)]}
        low, high = result.drop.ci95
        bars = {"type": "data", "array": [high - drop], "arrayminus": [drop - low], "color": SOFT, "thickness": 1}
        traces.append({**_dots([size], [drop], name, [said], marker), "error_y": bars})
        rows.append(
            (name, numbers.size(size), text_of("drop", drop), f"{numbers.signed(low)} … {numbers.signed(high)}")
        )
    layout = {
        "xaxis": {"type": "log", "title": {"text": NAMES["size"]}, "tickformat": "~s", "dtick": "D2"},
        "yaxis": {"title": {"text": "drop of the metric, with 95 % interval"}},
    }
    return Figure(
        name="artifacts",
        says=f"{len(sized)} artifacts: drop of the metric against file size",
        spec=_spec(traces, layout),
        columns=("run", "size", "drop", "95 % interval"),
        rows=tuple(rows),
    )


def _limits(result: Result, quantity: str) -> Iterator[dict[str, Any]]:
    """Dashed lines where the budget's limits are."""
    line = {"color": SOFT, "width": 1.5, "dash": "dash"}
    cost, drop = result.budget.limit(quantity), result.budget.limit("drop")  # type: ignore[arg-type]
    if cost is not None:
        at = cost.bound(value_of(quantity, result.baseline) or 0.0)
        yield {"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper", "line": line}
    if drop is not None:
        yield {"type": "line", "y0": drop.at_most, "y1": drop.at_most, "x0": 0, "x1": 1, "xref": "paper", "line": line}


def _bytes(details: ReportDetails) -> Figure | None:
    layers = sorted(details.layers, key=lambda layer: -layer.bytes_before)[:_MOST_BARS]
    if not layers or not layers[0].bytes_before:
        return None
    names = [layer.name for layer in layers]
    traces = [
        _bars(names, [layer.bytes_before for layer in layers], "float", BEFORE),
        _bars(names, [layer.bytes for layer in layers], "compressed", AFTER),
    ]
    layout = {"yaxis": {"title": {"text": "bytes"}, "tickformat": "~s"}, "barmode": "group"}
    return Figure(
        name="bytes",
        says="bytes of each layer's weight, float beside compressed",
        spec=_spec(traces, layout),
        columns=("layer", "float", "compressed"),
        rows=tuple((layer.name, numbers.size(layer.bytes_before), numbers.size(layer.bytes)) for layer in layers),
    )


def _milliseconds(result: Result) -> Figure | None:
    if result.hotspots is None:
        return None
    both = {"float": why.by_layer(result.hotspots.before), "compressed": why.by_layer(result.hotspots.after)}
    sides = {name: side for name, side in both.items() if side}  # not every runtime tells of which layer a kernel is
    longest = {layer: max(side.get(layer, 0.0) for side in sides.values()) for side in sides.values() for layer in side}
    names = sorted(longest, key=lambda layer: -longest[layer])[:_MOST_BARS]
    if not names:
        return None
    colours = {"float": BEFORE, "compressed": AFTER}
    traces = [_bars(names, [side.get(layer, 0.0) for layer in names], of, colours[of]) for of, side in sides.items()]
    rows = ((layer, *(numbers.milliseconds(side.get(layer, 0.0)) for side in sides.values())) for layer in names)
    return Figure(
        name="milliseconds",
        says=f"milliseconds in each layer, {' beside '.join(sides)}",
        spec=_spec(traces, {"yaxis": {"title": {"text": "ms"}}, "barmode": "group"}),
        columns=("layer", *sides),
        rows=tuple(rows),
    )


def _sensitivity(rows: Sequence[Sensitivity]) -> Figure | None:
    rows = rows[:_MOST_BARS]
    if not rows:
        return None
    choices = [choice for choice in CHOICES if any(choice in row.losses for row in rows)]
    units = [row.unit for row in rows]
    losses = [[row.losses.get(choice) for choice in choices] for row in rows]
    shown = [[None if loss is None else max(loss, 1e-6) for loss in row] for row in losses]
    said = [["" if loss is None else numbers.three(loss) for loss in row] for row in losses]
    trace = {
        "type": "heatmap",
        "x": choices,
        "y": units,
        "z": [[None if loss is None else math.log10(loss) for loss in row] for row in shown],
        "text": said,
        "texttemplate": "%{text}",
        "hovertemplate": "%{y}, %{x}: loss %{text}<extra></extra>",
        "colorscale": [[0.0, "#e8f1f5"], [0.5, "#9cc7d9"], [1.0, "#eda35c"]],
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
    }
    layout = {"yaxis": {"autorange": "reversed"}, "height": 120 + 24 * len(units)}
    return Figure(
        name="sensitivity",
        says="what each choice alone does to the outputs, by unit; the warmer the worse",
        spec=_spec([trace], layout),
        columns=("unit", *choices),
        rows=tuple((unit, *row) for unit, row in zip(units, said, strict=True)),
    )


def _weights(histograms: Sequence[Histogram]) -> Figure | None:
    """One layer at a time; buttons of Plotly's own choose it."""
    if not histograms:
        return None
    traces, buttons, rows = [], [], []
    for number, of in enumerate(histograms):
        at = [of.low + of.width * (place + 0.5) for place in range(len(of.before))]
        for name, shares, colour in (("float", of.before, BEFORE), ("compressed", of.after, AFTER)):
            bars = _bars(at, shares, name, colour)
            traces.append({**bars, "visible": number == 0, "opacity": 0.65, "width": of.width})
        visible = [place // 2 == number for place in range(2 * len(histograms))]
        buttons.append({"label": of.layer, "method": "restyle", "args": ["visible", visible]})
        grid = f"{len(of.levels)} values" if of.levels else "more than 64 values"
        rows.append((of.layer, numbers.three(-of.low), grid))
    menu = {"buttons": buttons, "x": 0, "xanchor": "left", "y": 1.18, "yanchor": "top"}
    layout = {
        "barmode": "overlay",
        "yaxis": {"title": {"text": "share of the weights"}, "tickformat": "~p"},
        "xaxis": {"title": {"text": "weight"}},
        "updatemenus": [menu],
        "legend": {"orientation": "h", "y": -0.3, "x": 0, "yanchor": "top"},
    }
    return Figure(
        name="weights",
        says="how weights are distributed, float beside compressed, a layer at a time",
        spec=_spec(traces, layout),
        columns=("layer", "largest weight", "the compressed weights take"),
        rows=tuple(rows),
    )


def _aspects(check: Check) -> Figure | None:
    """Before and after for each aspect of a check that has both."""
    of = [aspect for aspect in check.aspects if aspect.before is not None][:_MOST_BARS]
    if len(of) < 3:
        return None
    names = [aspect.label for aspect in of]
    traces = [
        _bars(names, [aspect.before or 0.0 for aspect in of], "original", BEFORE),
        _bars(names, [aspect.after for aspect in of], "compressed", AFTER),
    ]
    rows = (
        (aspect.label, numbers.three(aspect.before or 0.0), numbers.three(aspect.after), _interval(aspect))
        for aspect in of
    )
    return Figure(
        name=check.name,
        says=f"{check.name}: original beside compressed",
        spec=_spec(traces, {"barmode": "group"}),
        columns=("", "original", "compressed", "interval of the change"),
        rows=tuple(rows),
    )


def _interval(aspect: Aspect) -> str:
    return "" if aspect.interval is None else " … ".join(map(numbers.signed, aspect.interval))


def _dots(x: list[float], y: list[float], name: str, said: list[str], marker: dict[str, Any]) -> dict[str, Any]:
    hover = {"text": said, "hovertemplate": "%{text}<extra></extra>"}
    return {"type": "scatter", "mode": "markers", "x": x, "y": y, "name": name, "marker": marker, **hover}


def _line(x: list[float], y: list[float], name: str, line: dict[str, Any]) -> dict[str, Any]:
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "name": name, "line": line, "hoverinfo": "skip"}


def _bars(x: Sequence[Any], y: Sequence[float], name: str, colour: str) -> dict[str, Any]:
    return {"type": "bar", "x": list(x), "y": list(y), "name": name, "marker": {"color": colour}}


def _spec(traces: list[dict[str, Any]], layout: dict[str, Any]) -> str:
    """Colours of text and lines are the page's own (report.css), so that both light and dark can be read."""
    common = {
        "height": _HEIGHT,
        "margin": {"l": 56, "r": 12, "t": 36, "b": 48},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "legend": {"orientation": "h", "y": 1.02, "x": 0, "yanchor": "bottom"},
        "hoverlabel": {"bgcolor": "#1d2327", "font": {"color": "#ffffff"}},
    }
    axes = {axis: {"automargin": True, **layout.get(axis, {})} for axis in ("xaxis", "yaxis")}
    return json.dumps({"data": traces, "layout": {**common, **layout, **axes}}).replace("<", "\\u003c")
