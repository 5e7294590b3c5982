"""Several runs side by side: a table for the terminal, and a page in the report's style."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from trimtab.plan import CheckName, Result
from trimtab.plan.behaviour import THRESHOLDS
from trimtab.report import numbers
from trimtab.report.figures import Figure, artifacts
from trimtab.report.page import render, write_page
from trimtab.report.summary import NAMES, text_of, value_of

QUANTITIES = ("size", "stored_size", "latency", "macs", "bops", "memory")


@dataclass(frozen=True)
class Cell:
    """One measurement as text; `best` of its column."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Verdict:
    """What a check says of a run. `tone` is a CSS class."""

    text: str
    tone: str


@dataclass(frozen=True)
class Comparison:
    """Runs by name, as rows of cells under columns."""

    results: Mapping[str, Result]

    @property
    def columns(self) -> tuple[str, ...]:
        """The run, whether its budget was met, the metric, its drop, and every quantity that some run measured."""
        return ("run", "budget", "metric", "drop", *(NAMES[quantity] for quantity in self._quantities))

    @property
    def rows(self) -> list[tuple[Cell, ...]]:
        """A row for each run."""
        results = list(self.results.values())
        drops = [result.drop.value for result in results]
        costs = {quantity: [value_of(quantity, of.compressed) for of in results] for quantity in self._quantities}
        least = {
            quantity: _least([value for value in column if value is not None]) for quantity, column in costs.items()
        }
        return [
            (
                Cell(name),
                Cell("✓ met" if result.met else "✕ not met"),
                Cell("–" if result.compressed.metric is None else f"{result.compressed.metric:.4f}"),
                Cell(text_of("drop", result.drop.value), best=result.drop.value == min(drops) < max(drops)),
                *(
                    Cell(
                        "–" if value is None else text_of(quantity, value),
                        best=value is not None and value == least[quantity],
                    )
                    for quantity, value in ((quantity, costs[quantity][number]) for quantity in costs)
                ),
            )
            for number, (name, result) in enumerate(self.results.items())
        ]

    @property
    def behaviour(self) -> dict[CheckName, list[Verdict]]:
        """By check, a verdict for each run."""
        return {check: [_verdict(result, check) for result in self.results.values()] for check in THRESHOLDS}

    @property
    def _quantities(self) -> list[str]:
        return [of for of in QUANTITIES if any(value_of(of, r.compressed) is not None for r in self.results.values())]


def comparison_table(compared: Comparison) -> Table:
    """For the terminal."""
    table = Table(box=SIMPLE_HEAD)
    for number, column in enumerate(compared.columns):
        table.add_column(column, justify="right" if number > 1 else "left")
    for row in compared.rows:
        table.add_row(*(Text(cell.text, "bold green" if cell.best else "") for cell in row))
    for check, verdicts in compared.behaviour.items():
        failed = [name for name, verdict in zip(compared.results, verdicts, strict=True) if verdict.tone == "bad"]
        if failed:
            table.caption = f"{table.caption or ''}{check} does not hold: {', '.join(failed)}\n"
    return table


def write_comparison(compared: Comparison, path: str | Path) -> Path:
    """Write the page, in place of an older one, and return its path."""
    drawn: dict[str, Figure] = {figure.name: figure for figure in [artifacts(compared.results)] if figure is not None}
    text = render(
        "compare.html",
        names=list(compared.results),
        columns=compared.columns,
        rows=compared.rows,
        behaviour=compared.behaviour,
        figures=drawn,
    )
    return write_page(text, path)


def _least(values: Sequence[float]) -> float | None:
    """The least, where it is less than another."""
    return min(values) if min(values) < max(values) else None


def _verdict(result: Result, name: CheckName) -> Verdict:
    check = result.behaviour.check(name) if result.behaviour else None
    if check is None:
        return Verdict("–", "soft")
    mark, tone = ("✓", "good") if check.holds else ("✕", "bad")
    return Verdict(f"{mark} {numbers.three(check.measured)}", tone)
