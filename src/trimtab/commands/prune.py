"""`trimtab prune`: a plan without a run, for `trimtab apply`, `prepare` or a look."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from trimtab.commands.shared import (
    Json,
    Quiet,
    Seed,
    Set,
    TargetOption,
    TaskArgument,
    captured,
    parameters,
    percent,
    print_rows,
    read_file,
    task_of,
)
from trimtab.errors import ConfigError


def prune_command(
    task: TaskArgument,
    remove: Annotated[str | None, typer.Option(help="The share to remove: 50% or 0.5.")] = None,
    of: Annotated[Literal["pieces", "macs"], typer.Option(help="What --remove is a share of.")] = "pieces",
    count: Annotated[int | None, typer.Option(min=1, help="Remove so many pieces instead.")] = None,
    quantile: Annotated[
        float | None, typer.Option(help="Remove what scores below this quantile: 0.9 is the 90th percentile.")
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="Remove what scores below this value.")] = None,
    granularity: Annotated[
        str, typer.Option(help="channels, branches, weights, kernels, tiles such as 4x4, or 2:4 (takes no amount).")
    ] = "channels",
    criterion: Annotated[str, typer.Option(help="What scores the pieces: magnitude, taylor, …")] = "magnitude",
    allocation: Annotated[
        str, typer.Option(help="How much each loses: uniform, global, erdos_renyi or sensitivity (measured).")
    ] = "global",
    leave: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A group, layer or branch that loses nothing.")
    ] = None,
    curves: Annotated[
        Path | None, typer.Option(help="For sensitivity: read the measured curves here, or keep them here.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the plan.")] = Path("plan.json"),
    target: TargetOption = "onnxruntime",
    seed: Seed = 0,
    setting: Set = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Decide what to remove by a share, a count or a threshold, without training; kept in plan.json."""
    from trimtab.apply import apply
    from trimtab.measure import macs, zero_share
    from trimtab.prune import CRITERIA
    from trimtab.report import stages
    from trimtab.run import atomic_write
    from trimtab.search import prune
    from trimtab.search.plan_stats import training_stats

    amount = _amount(remove, of, count, quantile, threshold)
    progress = stages(quiet or as_json)
    loaded = task_of(task, setting)
    network = captured(loaded)
    asked: dict[str, Any] = {"granularity": granularity, "criterion": criterion, "leave": leave or (), "target": target}
    with progress.stage("statistics"):
        asked["stats"] = training_stats(CRITERIA.load(criterion).needs, network, loaded, seed=seed)
    if allocation == "sensitivity":
        asked["curves"] = _curves(network, loaded, curves, progress, **asked)
    plan = prune(network, amount, allocation=allocation, seed=seed, progress=progress, **asked)
    smaller = apply(network, plan, asked["stats"])
    atomic_write(output, plan.to_json())
    rows: list[dict[str, Any]] = [
        {"": "parameters", "before": parameters(network), "after": parameters(smaller)},
        {"": "MACs", "before": macs(network), "after": macs(smaller)},
        {"": "zero weights", "before": percent(zero_share(network)), "after": percent(zero_share(smaller))},
    ]
    if as_json:
        print(json.dumps({"plan": str(output), "pruned": {row[""]: [row["before"], row["after"]] for row in rows}}))
    elif not quiet:
        print_rows("pruned", ("", "before", "after"), rows)
        typer.echo(str(output))


def _amount(
    remove: str | None, of: Literal["pieces", "macs"], count: int | None, quantile: float | None, below: float | None
) -> Any:
    """The amount that was given; None when there is none. Raises: ConfigError for several."""
    from trimtab.plan import Count, Fraction, Quantile, Threshold

    given: list[Any] = []
    if remove is not None:
        given.append(Fraction(removed=_share(remove), of=of))
    elif of != "pieces":
        raise ConfigError("--of: says what --remove is a share of; give --remove, such as 50%")
    if count is not None:
        given.append(Count(removed=count))
    if quantile is not None:
        given.append(Quantile(below=quantile))
    if below is not None:
        given.append(Threshold(below=below))
    if len(given) > 1:
        raise ConfigError(
            "--remove, --count, --quantile and --threshold: one of them says how much; leave the rest out"
        )
    return given[0] if given else None


def _share(text: str) -> float:
    number, percent_sign, rest = text.partition("%")
    try:
        share = float(number) / (100 if percent_sign else 1)
    except ValueError:
        share = 0.0
    if rest or not 0 < share < 1:
        raise ConfigError(f"--remove: a share above 0 and below 1 is needed, got {text!r}; give 50% or 0.5")
    return share


def _curves(network: Any, task: Any, file: Path | None, progress: Any, **asked: Any) -> Any:
    """Read from the file, if it is there; else measured on the first validation rows, and written there."""
    from trimtab.run import atomic_write
    from trimtab.search import Curves, measure_curves
    from trimtab.search.profile import PROFILE_ROWS, first_batches

    if file is not None and file.exists():
        return Curves.from_json(read_file(file), where=str(file))
    found = measure_curves(network, list(first_batches(task.val, PROFILE_ROWS)), progress=progress, **asked)
    if file is not None:
        atomic_write(file, found.to_json())
    return found
