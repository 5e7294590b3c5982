"""`trimtab compress`: all stages, for one budget or several."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from trimtab.commands.shared import (
    NOT_MET,
    Batch,
    Bops,
    Drop,
    Json,
    Latency,
    LatencyTable,
    Macs,
    Memory,
    OpenTarget,
    Quiet,
    Require,
    RunOption,
    Seed,
    Set,
    Size,
    StoredSize,
    TaskArgument,
    Threads,
    begun,
    budgets_of,
)
from trimtab.plan import Order

Criterion = Annotated[
    str, typer.Option(help="What ranks the channels: taylor, obs, magnitude, …; another word lists them.")
]
OrderOption = Annotated[
    Order, typer.Option(help="Prune and quantize at once, one after the other, or one of them alone.")
]
ProfileFor = Annotated[
    str | None,
    typer.Option(
        help="Defaults of target, batch, threads and limits for a server, mobile or microcontroller; what is given "
        "beside it wins. For a microcontroller: at most 512kB, and an ONNX file that is still to be converted."
    ),
]
Confidence = Annotated[
    float | None, typer.Option(help="Keep the drop for so many of the resampled test sets (0.95), not just on average.")
]
Refine = Annotated[
    str, typer.Option(help="Judge more plans than the best predicted: tpe, evolutionary, random or grid; none: do not.")
]


def compress_command(
    task: TaskArgument,
    drop: Drop = None,
    size: Size = None,
    stored_size: StoredSize = None,
    latency: Latency = None,
    macs: Macs = None,
    bops: Bops = None,
    memory: Memory = None,
    require: Require = None,
    profile_for: ProfileFor = None,
    target: OpenTarget = None,
    run: RunOption = None,
    seed: Seed = 0,
    setting: Set = None,
    recover: Annotated[bool, typer.Option(help="Train after compressing.")] = True,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of one round of recovery.")] = None,
    minutes: Annotated[float | None, typer.Option(min=0, help="Stop after so much time and keep the best.")] = None,
    criterion: Criterion = "taylor",
    order: OrderOption = "joint",
    batch: Batch = None,
    threads: Threads = None,
    latency_table: LatencyTable = None,
    confidence: Confidence = None,
    refine: Refine = "none",
    trials: Annotated[int, typer.Option(min=1, help="How many plans --refine judges.")] = 16,
    folds: Annotated[int | None, typer.Option(min=2, help="Judge them on so many folds of train and val.")] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Compress a network to a budget: all stages, the proof, and the report. A limit may list several: 50%,20%."""
    from trimtab.compress import compress
    from trimtab.family import compress_family
    from trimtab.measure import usable_cores
    from trimtab.plan import Options, scenario
    from trimtab.report import stages

    preset = scenario(profile_for)
    given = {"drop": drop, "size": size, "stored_size": stored_size, "latency": latency, "macs": macs, "bops": bops}
    given["memory"] = memory
    limits = {**preset.limits, **{name: text for name, text in given.items() if text is not None}}
    budgets = budgets_of(require or (), **limits)
    loaded, settings, where = begun(task, setting, run)
    options = Options(
        recover=recover,
        epochs=epochs,
        minutes=minutes,
        criterion=criterion,
        order=order,
        batch=batch or preset.batch,
        threads=threads or preset.threads or usable_cores(),
        latency_table=None if latency_table is None else str(latency_table),
        confidence=confidence,
        refine=refine,  # type: ignore[arg-type]  # a wrong one is refused with the list
        trials=trials,
        folds=folds,
    )
    same: dict[str, Any] = {"run": where, "seed": seed, "options": options, "spec": task, "settings": settings}
    same |= {"target": target or preset.target, "progress": stages(quiet or as_json)}
    results = []
    family = compress_family(loaded, budgets=budgets, **same) if len(budgets) > 1 else None
    for result in family or (compress(loaded, budget=budgets[0], **same),):
        results.append(result)
        if not (quiet or as_json):
            _show(result)
    if as_json:
        written = [result.to_json() for result in results]
        print(f"[{','.join(written)}]" if len(budgets) > 1 else written[0], end="")
    raise typer.Exit(0 if all(result.met for result in results) else NOT_MET)


def _show(result: Any) -> None:
    """Before and after, why it is not faster, and where everything is."""
    from trimtab.report import before_after, behaviour_lines, why_lines

    Console().print(before_after(result))
    if result.hotspots is not None:
        Console().print(why_lines(result.hotspots))
    if result.behaviour is not None:
        Console().print(behaviour_lines(result.behaviour))
    where = Path(result.artifact).parent
    typer.echo(f"{result.artifact}\n{where / 'report.html'}\n{where / 'result.json'}")
