"""`trimtab quantize`: a plan of bits without a run, for `trimtab apply`, `prepare` or a look."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from trimtab.commands.shared import (
    Json,
    Quiet,
    Seed,
    Set,
    TargetOption,
    TaskArgument,
    captured,
    print_rows,
    task_of,
)
from trimtab.errors import ConfigError

Average = Annotated[float | None, typer.Option(help="Choose each layer's bits of weights, at most so many on average.")]
Sensitivity = Annotated[
    str, typer.Option(help="What a layer loses by its bits: divergence (measured), hessian or fisher.")
]
Grid = Annotated[str, typer.Option(help="The weights' grid: symmetric, power_of_two, …; another word lists them.")]
Granularity = Annotated[
    str, typer.Option(help="What shares a scale: channel, tensor, network, or 1x32 (one output, 32 inputs).")
]
Ranges = Annotated[
    str | None,
    typer.Option(help="How activation ranges are read from data: minmax, mse, …; else as suits the bits."),
]


def quantize_command(
    task: TaskArgument,
    weights: Annotated[str, typer.Option(help="Bits of weights, or float.")] = "8",
    activations: Annotated[str, typer.Option(help="Bits of activations, or float.")] = "8",
    average: Average = None,
    choices: Annotated[str, typer.Option(help="The bits to choose from.")] = "2,3,4,8",
    sensitivity: Sensitivity = "divergence",
    grid: Grid = "symmetric",
    granularity: Granularity = "channel",
    keep: Annotated[list[str] | None, typer.Option(metavar="LAYER", help="A layer that stays in float.")] = None,
    ends: Annotated[str, typer.Option(help="Least bits of the first and the last layer, or none.")] = "8",
    dynamic: Annotated[bool, typer.Option(help="Ranges of activations at run time, where there is a kernel.")] = False,
    ranges: Ranges = None,
    solver: Annotated[str, typer.Option(help="How weights are rounded: nearest, …")] = "nearest",
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the plan.")] = Path("plan.json"),
    target: TargetOption = "onnxruntime",
    seed: Seed = 0,
    setting: Set = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Decide in how many bits each layer is stored, without training; kept in plan.json."""
    from trimtab.report import stages
    from trimtab.run import atomic_write
    from trimtab.search import quantize

    progress = stages(quiet or as_json)
    asked: dict[str, Any] = {
        "weights": _bits("--weights", weights, "float"),
        "activations": _bits("--activations", activations, "float"),
        "choices": tuple(_bits("--choices", text, "") or 0 for text in choices.split(",")),
        "first_and_last": _bits("--ends", ends, "none"),
        "granularity": _granularity(granularity),
        "solver": solver,
    }
    loaded = task_of(task, setting)
    network = captured(loaded)
    if average is not None:
        asked |= _measured(network, loaded, sensitivity, seed, progress)
    plan = quantize(
        network,
        average=average,
        sensitivity=sensitivity,
        grid=grid,
        keep=keep or (),
        dynamic=dynamic,
        ranges=ranges,
        target=target,
        seed=seed,
        progress=progress,
        **asked,
    )
    atomic_write(output, plan.to_json())
    if as_json:
        print(json.dumps({"plan": str(output), "layers": _rows(network, plan)}))
    elif not quiet:
        _show(_rows(network, plan), output)


def _show(rows: list[dict[str, Any]], output: Path) -> None:
    print_rows("stored", tuple(rows[0]), rows)
    typer.echo(str(output))


def _measured(network: Any, task: Any, sensitivity: str, seed: int, progress: Any) -> dict[str, Any]:
    """What mixed precision needs of the data."""
    from trimtab.search.plan_stats import training_stats
    from trimtab.search.profile import PROFILE_ROWS, first_batches
    from trimtab.search.quantizing import SENSITIVITIES

    kind = SENSITIVITIES.load(sensitivity)
    with progress.stage("statistics"):
        stats = training_stats(kind.needs, network, task, seed=seed)
    return {"stats": stats, "batches": list(first_batches(task.val, PROFILE_ROWS))}


def _rows(network: Any, plan: Any) -> list[dict[str, Any]]:
    """Every layer, those that stay in float too."""
    decided = {decision.layer: decision for decision in plan.layers}
    rows = []
    for layer in network.layers:
        if "#" in layer.name:  # a further call of a weight that is stored once
            continue
        decision = decided.get(layer.name)
        weight, activation = (decision.weight, decision.activation) if decision else (None, None)
        rows.append(
            {
                "layer": layer.name,
                "weights": network.module.get_parameter(layer.weight).numel(),
                "weight bits": weight.bits if weight else "float",
                "activation bits": activation.bits if activation else "float",
                "grid": weight.grid if weight else "",
            }
        )
    return rows


def _bits(option: str, text: str, nothing: str) -> int | None:
    if nothing and text.strip() == nothing:
        return None
    try:
        bits = int(text)
    except ValueError:
        bits = 0
    if not 1 <= bits <= 16:
        alternative = f" or {nothing!r}" if nothing else ""
        raise ConfigError(f"{option}: bits are a whole number from 1 to 16{alternative}, got {text!r}; give 4 or 8")
    return bits


def _granularity(text: str) -> Any:
    from trimtab.plan import PER_CHANNEL, PER_NETWORK, PER_TENSOR

    named = {"channel": PER_CHANNEL, "tensor": PER_TENSOR, "network": PER_NETWORK}
    rows, cross, columns = text.partition("x")
    if text in named:
        return named[text]
    if not (cross and rows.isdecimal() and columns.isdecimal()):
        raise ConfigError(f"--granularity: unknown {text!r}; give channel, tensor, network, or a block such as 1x32")
    return int(rows), int(columns)
