"""What the terminal shows: progress while a run works, one table when it is done."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text

from trimtab.plan import Behaviour, Result
from trimtab.report import numbers
from trimtab.report.summary import LimitRow, interval, limit_rows, quantity_rows

PATIENCE_S = 2.0  # stages that are done sooner get no bar


def before_after(result: Result) -> Table:
    """Every quantity before and after, and the limit of the budget on it."""
    verdict = Text("✓ budget met", "bold green") if result.met else Text("✕ budget not met", "bold red")
    title = Text.assemble(Text(result.task, "bold"), "  ", verdict)
    table = Table(title=title, title_justify="left", title_style="", box=SIMPLE_HEAD)
    table.caption, table.caption_justify = Text(f"{interval(result)}\n{result.why}"), "left"
    table.add_column("")
    table.add_column("original", justify="right")
    table.add_column("compressed", justify="right", style="bold")
    table.add_column("change")
    table.add_column("limit")
    limits = {limit.quantity: limit for limit in limit_rows(result)}
    rows = quantity_rows(result)
    for row in rows:
        table.add_row(row.name, row.before, row.after, Text(row.change), _limit(limits.get(row.quantity)))
    for quantity, limit in limits.items():
        if quantity not in {row.quantity for row in rows}:
            table.add_row(limit.name, "", limit.measured, "", _limit(limit))
    return table


def behaviour_lines(behaviour: Behaviour) -> Text:
    """One line a check: whether it holds, and its verdict; then what was left out."""
    text = Text("behaviour", "bold")
    for check in behaviour.checks:
        mark = ("\n✓ ", "green") if check.holds else ("\n✕ ", "red")
        text.append_text(Text.assemble(mark, f"{check.name}: ", (check.verdict, "dim")))
    for name, reason in behaviour.left_out.items():
        text.append_text(Text.assemble(("\n– ", "yellow"), f"{name} left out: ", (reason, "dim")))
    return text


def _limit(row: LimitRow | None) -> Text:
    if row is None:
        return Text("")
    mark = {True: Text("✓ ", "green"), False: Text("✕ ", "red"), None: Text("? ", "yellow")}[row.holds]
    return Text.assemble(mark, f"≤ {row.limit}")


class _TimeLeft(ProgressColumn):
    """The time left, or while that is not known the time spent."""

    def render(self, task: Task) -> Text:
        if task.total is not None and task.time_remaining is not None:
            return Text(f"{numbers.seconds(task.time_remaining)} left", "cyan")
        return Text(numbers.seconds(task.elapsed or 0.0), "dim")


class _Patient(Progress):
    """Shows a task only when it has run for a while."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table([task for task in self.tasks if (task.elapsed or 0.0) > PATIENCE_S])


class Stages:
    """One line on stderr for every finished stage; in a terminal also a bar with the time left. Silent when quiet."""

    def __init__(self, *, quiet: bool, console: Console | None = None) -> None:
        self._quiet = quiet
        self._console = console or Console(stderr=True)

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Callable[..., None]]:
        """Yields `advance(steps=1, note="")`; the note stands behind the bar. `total` is None when it is not known."""
        if self._quiet:
            yield _nothing
            return
        begin = time.monotonic()
        if self._console.is_terminal:
            with self._bar() as progress:
                task = progress.add_task(name, total=total, note="")
                yield lambda steps=1, note="": progress.update(task, advance=steps, note=note)
        else:
            yield _nothing
        self._console.print(f"{name:<10} {numbers.seconds(time.monotonic() - begin):>12}", highlight=False)

    def _bar(self) -> Progress:
        return _Patient(
            SpinnerColumn(),
            TextColumn("{task.description:<10}"),
            BarColumn(),
            _TimeLeft(),
            TextColumn("{task.fields[note]}", style="dim"),
            console=self._console,
            transient=True,
        )


def stages(quiet: bool = False) -> Stages:
    """The progress of a run: `with progress.stage("profile", total=n) as advance: advance()`."""
    return Stages(quiet=quiet)


def _nothing(steps: float = 1, note: str = "") -> None:
    """There is no bar to move."""
