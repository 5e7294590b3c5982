"""`trimtab compare`: several finished runs side by side."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from trimtab.errors import ConfigError

Runs = Annotated[list[Path], typer.Argument(metavar="RUN RUN…", help="The folders of finished runs.")]
Html = Annotated[Path, typer.Option(metavar="FILE", help="Where the page goes.")]


def compare_command(runs: Runs, html: Html = Path("compare.html")) -> None:
    """Set finished runs side by side: in the terminal, and as a page."""
    from trimtab.report import Comparison, comparison_table, result_of, write_comparison

    names = [str(run) for run in runs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if len(runs) < 2 or twice is not None:
        said = f"got {names[0]} only" if twice is None else f"got {twice} twice"
        raise ConfigError(f"compare: give two runs or more, each once; {said}")
    compared = Comparison({name: result_of(run) for name, run in zip(names, runs, strict=True)})
    Console().print(comparison_table(compared))
    typer.echo(str(write_comparison(compared, html)))
