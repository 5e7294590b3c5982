"""MLPerf Tiny's ResNet-8 in 8 bits: the method is chosen on val, the file is judged on test, once."""

import time
from pathlib import Path
from typing import Any

import torch

import trimtab as tt
from harness import Claim
from trimtab.lower import lower_float
from trimtab.measure import evaluate
from trimtab.tasks import load_task

EXAMPLE = Path(__file__).parents[2] / "examples" / "mlperf_tiny_resnet8.py"
PROTOCOL = """\
MLPerf Tiny's ResNet-8, its own weights, no training and no labels: 1024 images of train (cropped, flipped). Solvers and
ranges are compared on val (5000 images of train) by the simulation; the best (of equals the first) is written for ONNX
Runtime, and that file is executed on all 10 000 test images. "own" is the int8 .tflite of the reference, as measured
beside its weights.
"""
IMAGES, BATCH, SEED = 1024, 128, 0
CANDIDATES = (
    # (solver, ranges)
    ("nearest", "minmax"),
    ("gptq", "minmax"),
    ("gptq", "mse"),
)
OWN_BYTES, OWN_ACCURACY = 98_496, 86.97
GOAL_DROP = 0.1


def run(
    *,
    folder: Path,
    candidates: tuple[tuple[str, str], ...] = CANDIDATES,
    images: int = IMAGES,
    rows: int | None = None,
) -> list[dict[str, Any]]:
    """A row for every candidate, on val; and one for the file of the best, on test. `rows`: batches of each split."""
    folder.mkdir(parents=True, exist_ok=True)
    task = load_task(str(EXAMPLE), {"batch": str(BATCH)})
    network = tt.capture(task.model, next(iter(task.train))[0])
    val, test = (list(_first(loader, rows)) for loader in (task.val, task.test))
    found = []
    for solver, ranges in candidates:
        start = time.perf_counter()
        fake = _quantized(task, network, solver, ranges, images)
        row = {"solver": solver, "ranges": ranges, "candidate, val %": 100 * evaluate(fake, val, task.metric).value}
        found.append((row | {"seconds of solving": time.perf_counter() - start}, fake))
    best, fake = max(found, key=lambda pair: pair[0]["candidate, val %"])
    target = tt.target("onnxruntime")
    floating = lower_float(network, target, folder / "float.onnx")
    artifact = tt.lower(fake, target, folder / "int8.onnx")
    proof = tt.prove(artifact, fake, test)
    before, after = (100 * evaluate(it, test, task.metric).value for it in (floating, artifact))
    chosen = {
        "solver": best["solver"],
        "ranges": best["ranges"],
        "original, test %": before,
        "file, test %": after,
        "drop, points": before - after,
        "bytes": artifact.file_bytes,
        "bytes, float": floating.file_bytes,
        "bytes, own": OWN_BYTES,
        "own, test %": OWN_ACCURACY,
        "identical rows": proof.identical_rows,
        "integer kernels": sum(proof.integer_ops.values()),
        "float kernels": sum(proof.float_ops.values()),
    }
    return [{"network": "ResNet-8 (MLPerf Tiny)", **row} for row in (*(row for row, _ in found), chosen)]


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """What the file loses, and how long it is."""
    found = []
    for row in rows:
        if "bytes, own" in row:
            found += [
                Claim("ResNet-8 of MLPerf Tiny, int8: drop of the file", GOAL_DROP, row["drop, points"], "points"),
                Claim("ResNet-8 of MLPerf Tiny, int8: file", OWN_BYTES - 1, row["bytes"], "bytes"),
            ]
    return found


def _quantized(task: tt.Task, network: tt.Network, solver: Any, ranges: str, images: int) -> tt.Network:
    plan = tt.quantize(network, solver=solver, ranges=ranges, seed=SEED)
    torch.manual_seed(SEED)
    batches = [inputs for inputs, _ in _first(task.train, images // BATCH)]
    return tt.repair(tt.apply(network, plan), network, plan, batches)


def _first(loader: Any, count: int | None) -> Any:
    return (batch for _, batch in zip(range(count), loader, strict=False)) if count is not None else loader
