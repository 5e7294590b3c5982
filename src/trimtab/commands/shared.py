"""What subcommands share: options, the task, tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from trimtab.errors import TrimtabError

TaskArgument = Annotated[
    str, typer.Argument(metavar="TASK", help="A built-in task (digits), or path/to/file.py[:function].")
]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting for the task function.")]
TargetOption = Annotated[str, typer.Option("--target", help="The runtime that the network is made for.")]
Seed = Annotated[int, typer.Option(min=0, help="Same seed, same result.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def task_of(spec: str, setting: Sequence[str] | None) -> Any:
    from trimtab.tasks import load_task, validate

    task = load_task(spec, settings_of(setting))
    validate(task)
    return task


def captured(task: Any) -> Any:
    from trimtab.graph import capture
    from trimtab.measure import first_rows

    return capture(task.model, task.example if task.example is not None else first_rows(task.train, 3))


def begun(task: str, setting: Sequence[str] | None, run: Path | None) -> tuple[Any, dict[str, str], Path]:
    """The task, its settings, and the folder of its run."""
    from trimtab.tasks import load_task

    settings = settings_of(setting)
    loaded = load_task(task, settings)
    return loaded, settings, run or Path("runs") / loaded.name


def settings_of(pairs: Sequence[str] | None) -> dict[str, str]:
    settings = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise typer.BadParameter(f"--set {pair!r} is not KEY=VALUE")
        settings[key] = value
    return settings


def read_file(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise TrimtabError(f"{file}: {error.strerror}; give the path of an existing file") from error


def parameters(network: Any) -> int:
    return sum(parameter.numel() for name, parameter in network.named_parameters() if "fake_quantize" not in name)


def percent(fraction: float) -> str:
    return f"{fraction:.2%}"


def print_rows(title: str, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(_text(row[column]) for column in columns))
    Console().print(table)


def _text(value: object) -> str:
    return escape(", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value))
