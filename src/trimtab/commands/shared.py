"""What subcommands share: options, the task, tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from trimtab.errors import ConfigError, TrimtabError
from trimtab.plan import Budget

NOT_MET = 3
"""The exit code of a budget that is not met."""

TaskArgument = Annotated[
    str, typer.Argument(metavar="TASK", help="A built-in task (digits), or path/to/file.py[:function].")
]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting for the task function.")]
TargetOption = Annotated[str, typer.Option("--target", help="The runtime that the network is made for.")]
OpenTarget = Annotated[
    str | None, typer.Option("--target", help="The runtime that the network is made for; default onnxruntime.")
]
Batch = Annotated[int | None, typer.Option(min=1, help="Rows at a time, for latency and memory; default 1.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads, for latency; default 1.")]
LatencyTable = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A profile.json that `trimtab profile` wrote where the network will run: its latency, nothing timed here.",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Same seed, same result.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

Drop = Annotated[str | None, typer.Option(help="Most that the metric may lose, in its own unit: 0.01.")]
Size = Annotated[str | None, typer.Option(help="Largest file: 10% of the float file, or 64kB.")]
StoredSize = Annotated[str | None, typer.Option(help="Largest entropy-coded .trim file: 5% of the float one, or 40kB.")]
Latency = Annotated[str | None, typer.Option(help="Longest time a batch: 0.5x of the float network's, or 2ms.")]
Macs = Annotated[str | None, typer.Option(help="Most multiply-accumulates a sample: 0.4x, or 50M.")]
Bops = Annotated[str | None, typer.Option(help="Most bit operations a sample: 1%, or 2G.")]
Memory = Annotated[str | None, typer.Option(help="Most memory at run time: 50%, or 64MB.")]
Require = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CHECK[=MOST]",
        help="A check of the behaviour that must hold: classes, calibration, agreement, robustness, overfitting or "
        "explanation; with a threshold of your own: calibration=0.02.",
    ),
]
RunOption = Annotated[
    Path | None, typer.Option("--run", help="Folder of the run; default runs/TASK. Continues what it holds.")
]


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


def budgets_of(require: Sequence[str] = (), **limits: str | None) -> list[Budget]:
    """One budget, or several where one of the limits lists several values: `50%,20%`. Raises: ConfigError."""
    several = [name for name, text in limits.items() if text and "," in text]
    if len(several) > 1:
        raise ConfigError(f"budget: {several[0]} and {several[1]} both list several values; give one a single value")
    if not several:
        return [Budget(require=require, **limits)]  # type: ignore[arg-type]
    name = several[0]
    parts = str(limits[name]).split(",")
    return [Budget(require=require, **{**limits, name: part}) for part in parts]  # type: ignore[arg-type]


def print_rows(title: str, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(_text(row[column]) for column in columns))
    Console().print(table)


def _text(value: object) -> str:
    return escape(", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value))
