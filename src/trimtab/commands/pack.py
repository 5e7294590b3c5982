"""`trimtab pack` and `trimtab unpack`: the smallest file, and from it a file that a runtime loads."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from trimtab.commands.shared import Json, Quiet, TargetOption, print_rows

Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Where to; default beside what was given.")]


def pack_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    out: Out = None,
    precision: Annotated[int, typer.Option(min=1, max=23, help="Bits of the mantissas of scales and biases.")] = 8,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write the best network of a run as one entropy-coded .trim file, and judge what comes out of it on val."""
    from trimtab.job import Job
    from trimtab.measure import evaluate
    from trimtab.report import stages
    from trimtab.store import load, pack

    with Job.load(run, progress=stages(quiet or as_json)) as job:
        network = job.trained(*job.best())
        packed = pack(network, out or job.run.file("model.trim"), precision=precision)
        before, after = (evaluate(each, job.task.val, job.task.metric).value for each in (network, load(packed.path)))
    found = {
        "file": str(packed.path),
        "bytes": packed.bytes,
        "quantized": packed.quantized,
        "metric on val before": before,
        "metric on val": after,
    }
    if as_json:
        print(json.dumps({**found, "parts": [part.model_dump() for part in packed.parts]}, indent=2))
    elif not quiet:
        _show(packed)
        typer.echo(f"{packed.path}: {packed.bytes} bytes; metric on val {after:.4f} (unpacked: {before:.4f})")
        if not packed.quantized:
            typer.echo("nothing in this network is quantized: it is kept bit for bit; quantize it to make it small")


def unpack_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .trim file.")],
    target: TargetOption = "onnxruntime",
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Lower a .trim file for a runtime."""
    from trimtab.lower import lower
    from trimtab.lower import target as target_of
    from trimtab.store import load

    runtime = target_of(target)
    artifact = lower(load(file), runtime, out or file.with_suffix(runtime.suffix))
    if as_json:
        print(json.dumps({"artifact": str(artifact.path), "file_bytes": artifact.file_bytes}))
    else:
        typer.echo(f"{artifact.path}: {artifact.file_bytes} bytes")


def _show(packed: Any) -> None:
    rows = [
        {"layer": part.layer or "(of no layer)", "kind": part.kind, "bytes": f"{part.bytes:.0f}"}
        for part in packed.parts
    ]
    print_rows("bytes", ("layer", "kind", "bytes"), rows)
