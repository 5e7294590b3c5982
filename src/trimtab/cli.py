"""The command line: parse, call, print. Exit code 0: met or done; 3: budget not met; 2: wrong usage."""

import json
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from trimtab.commands.compare import compare_command
from trimtab.commands.compress import compress_command
from trimtab.commands.pack import pack_command, unpack_command
from trimtab.commands.prune import prune_command
from trimtab.commands.quantize import quantize_command
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
    Quiet,
    RunOption,
    Seed,
    Set,
    Size,
    StoredSize,
    TargetOption,
    TaskArgument,
    Threads,
    begun,
    captured,
    parameters,
    percent,
    print_rows,
    read_file,
    task_of,
)
from trimtab.errors import RunError, TrimtabError

WRONG_USAGE, INTERRUPTED = 2, 130

app = typer.Typer(
    name="trimtab",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Make a trained PyTorch network small and fast for the machine it will run on, and prove it.",
)

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]
OtherTarget = Annotated[str | None, typer.Option("--target", help="Another runtime than the run's own.")]


def main() -> None:
    """Entry point of the `trimtab` command."""
    warnings.filterwarnings("ignore", module=r"copyreg|torch\..*", category=FutureWarning)
    try:
        app()
    except TrimtabError as error:
        Console(stderr=True, soft_wrap=True).print(f"[bold red]error[/]: {escape(str(error))}", highlight=False)
        sys.exit(WRONG_USAGE)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:  # typer makes this of KeyboardInterrupt
            note = "interrupted; nothing is lost: the same command continues where it stopped"
            Console(stderr=True, soft_wrap=True).print(note, highlight=False)
        raise


app.command("compress")(compress_command)
app.command("compare")(compare_command)


@app.command("inspect")
def inspect_command(task: TaskArgument, setting: Set = None, as_json: Json = False) -> None:
    """Show what can be cut: channel groups, residual branches, their share, and what is frozen and why.

    Of a .trim file, its header as JSON.
    """
    from trimtab.report import inspection, inspection_tables
    from trimtab.store import header_of

    if task.endswith(".trim"):
        print(json.dumps(header_of(task), indent=2))
        return
    found = inspection(captured(task_of(task, setting)))
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        Console().print(inspection_tables(found))


@app.command("profile")
def profile_command(
    task: TaskArgument,
    drop: Drop = "0.01",
    size: Size = None,
    stored_size: StoredSize = None,
    latency: Latency = None,
    macs: Macs = None,
    bops: Bops = None,
    memory: Memory = None,
    target: TargetOption = "onnxruntime",
    run: RunOption = None,
    seed: Seed = 0,
    setting: Set = None,
    batch: Batch = None,
    threads: Threads = None,
    latency_table: LatencyTable = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure what every option costs in loss, bytes, MACs and milliseconds; kept in RUN/profile.json."""
    from trimtab.job import Job
    from trimtab.plan import Budget, Options
    from trimtab.report import stages

    budget = Budget(drop=drop, size=size, stored_size=stored_size, latency=latency, macs=macs, bops=bops, memory=memory)
    loaded, settings, where = begun(task, setting, run)
    table = None if latency_table is None else str(latency_table)
    with Job.open(
        loaded,
        where,
        budget=budget,
        target=target,
        seed=seed,
        options=Options(batch=batch or 1, threads=threads or 1, latency_table=table),
        spec=task,
        settings=settings,
        progress=stages(quiet or as_json),
    ) as job:
        profile = job.timed_profile()
    if as_json:
        print(profile.to_json(), end="")
    elif not quiet:
        rows = [
            {
                "unit": unit.name,
                "kept": option.kept,
                "weight bits": option.weight.bits if option.weight else 32,
                "loss": f"{option.loss:.5f}",
            }
            for unit in profile.units
            for option in unit.options
        ]
        print_rows("options", ("unit", "kept", "weight bits", "loss"), rows)
        typer.echo(f"{where / 'profile.json'}")


@app.command("search")
def search_command(
    run: RunArgument,
    drop: Drop = None,
    size: Size = None,
    stored_size: StoredSize = None,
    latency: Latency = None,
    macs: Macs = None,
    bops: Bops = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Find the plan of least predicted loss under the run's budget (or the one given); kept in RUN/plan.json."""
    from trimtab.plan import Budget
    from trimtab.search import predicted, search

    given = {"drop": drop, "size": size, "stored_size": stored_size, "latency": latency, "macs": macs, "bops": bops}
    with _job(run, quiet or as_json) as job:
        budget = Budget(**given) if any(given.values()) else job.budget  # type: ignore[arg-type]
        plan = search(job.profile, budget)
        if plan is None:
            Console(stderr=True).print(f"no plan keeps {budget}")
            raise typer.Exit(NOT_MET)
        where = job.run.write("plan.json", plan.to_json())
        costs = predicted(job.profile, plan)
    if as_json:
        print(json.dumps({"plan": str(where), "predicted": costs}, indent=2))
    elif not quiet:
        print_rows(
            "plan", ("quantity", "predicted"), [{"quantity": k, "predicted": f"{v:.6g}"} for k, v in costs.items()]
        )
        typer.echo(str(where))


@app.command("apply")
def apply_command(
    task: TaskArgument,
    plan: Annotated[Path, typer.Argument(help="plan.json")],
    setting: Set = None,
    as_json: Json = False,
) -> None:
    """Apply a plan to a task's network, and verify the cut against the masked original in float64."""
    from trimtab.apply import apply, verify
    from trimtab.measure import distance, macs, zero_share
    from trimtab.plan import Plan
    from trimtab.search import stats_for
    from trimtab.search.profile import PROFILE_ROWS, first_batches

    decided = Plan.from_json(read_file(plan), where=str(plan))
    loaded = task_of(task, setting)
    network = captured(loaded)
    smaller = apply(network, decided, stats_for(decided, network, loaded, seed=decided.seed))
    found = verify(network, decided)
    moved = distance(smaller.dequantize(), network, list(first_batches(loaded.val, PROFILE_ROWS)))
    rows: list[dict[str, Any]] = [
        {"": "parameters", "before": parameters(network), "after": parameters(smaller)},
        {"": "MACs", "before": macs(network), "after": macs(smaller)},
        {"": "zero weights", "before": zero_share(network), "after": zero_share(smaller)},
    ]
    if as_json:
        applied = {row[""]: [row["before"], row["after"]] for row in rows}
        print(json.dumps({"applied": applied, "cut": asdict(found), "distance": moved.model_dump()}))
        return
    rows[-1] |= {side: percent(rows[-1][side]) for side in ("before", "after")}
    print_rows("applied", ("", "before", "after"), rows)
    said = "equals the masked original" if found.exact else f"not exact: {found.reason}"
    typer.echo(f"cut {said}; largest difference {found.max_abs_diff:.3g} in float64")
    typer.echo(moved.said())


app.command("prune")(prune_command)
app.command("quantize")(quantize_command)
app.command("pack")(pack_command)
app.command("unpack")(unpack_command)


@app.command("recover")
def recover_command(run: RunArgument, quiet: Quiet = False, as_json: Json = False) -> None:
    """Train the plan in RUN/plan.json: fine-tuning, quantization-aware training and distillation in one loop."""
    from trimtab.plan import Plan
    from trimtab.search import Proposal

    with _job(run, quiet or as_json) as job:
        plan = Plan.from_json(job.run.read("plan.json"), where=str(job.run.file("plan.json")))
        if not job.options.recover:
            raise RunError(f"{run}: is a run with --no-recover; begin one without it, in another --run")
        attempt = job.carry_out(Proposal(plan=plan), [])
    judged = attempt.judgement
    if as_json:
        print(judged.to_json(), end="")
    elif not quiet:
        typer.echo(f"drop on val {judged.drop:.4f}, {judged.costs['size']:.0f} bytes")


@app.command("lower")
def lower_command(run: RunArgument, target: OtherTarget = None, quiet: Quiet = False, as_json: Json = False) -> None:
    """Write the best network of a run for its target, or for another one."""
    with _job(run, quiet or as_json) as job:
        artifact = _lowered(job, job.trained(*job.best()), target)
    if as_json:
        print(json.dumps({"artifact": str(artifact.path), "file_bytes": artifact.file_bytes}))
    elif not quiet:
        typer.echo(f"{artifact.path}: {artifact.file_bytes} bytes")


@app.command("prove")
def prove_command(run: RunArgument, target: OtherTarget = None, as_json: Json = False, quiet: Quiet = False) -> None:
    """Execute a run's artifact in its runtime on the test split, and compare it with its simulation."""
    with _job(run, quiet or as_json) as job:
        network = job.trained(*job.best())
        proof = job.prove(_lowered(job, network, target), network)
    if as_json:
        print(proof.to_json(), end="")
    elif not quiet:
        rows = [{"": name, "value": value} for name, value in json.loads(proof.to_json()).items()]
        print_rows("proof", ("", "value"), rows)


@app.command("measure")
def measure_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that the target's runtime loads.")],
    task: Annotated[str, typer.Option(help="The task whose test split gives inputs and metric.")],
    setting: Set = None,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    batch: Annotated[int, typer.Option(min=1)] = 1,
    target: TargetOption = "onnxruntime",
    as_json: Json = False,
) -> None:
    """Metric, bytes, latency and peak memory of a file, on a task's data; and why it is not faster."""
    from trimtab.lower import backend, load
    from trimtab.measure import first_rows, hotspots, measure
    from trimtab.report import why_lines

    read_file(file)
    artifact, loaded = load(target, file).with_threads(threads), task_of(task, setting)
    found = measure(artifact, loaded, threads=threads, batch=batch)
    fallbacks = backend(artifact.target.name).kernels(artifact).fallbacks
    where = hotspots(artifact, first_rows(loaded.val, batch), fallbacks=fallbacks)
    if as_json:
        more = {"hotspots": where.model_dump(mode="json") if where else None}
        print(json.dumps(found.model_dump(mode="json") | more, indent=2))
        return
    rows = [{"": name, "value": value} for name, value in json.loads(found.to_json()).items() if value is not None]
    print_rows(str(file), ("", "value"), rows)
    if where is not None:
        Console().print(why_lines(where))


@app.command("report")
def report_command(run: RunArgument) -> None:
    """Write RUN/report.html again from RUN/result.json."""
    from trimtab.report import report

    typer.echo(str(report(run)))


def _lowered(job: Any, network: Any, target: str | None) -> Any:
    """The artifact in the run folder; for another target than the run's, its name says which."""
    from trimtab.lower import lower
    from trimtab.lower import target as target_of

    if target is None or target == job.target.name:
        return job.lower(network)
    other = target_of(target)
    return lower(network, other, job.run.file(f"model-{other.name}{other.suffix}"))


def _job(run: Path, quiet: bool) -> Any:
    from trimtab.job import Job
    from trimtab.report import stages

    return Job.load(run, progress=stages(quiet))
