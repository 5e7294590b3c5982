"""Does every runtime compute what was simulated? And are weights of 4 bits as small and as fast as they should be?"""

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import trimtab as tt
from harness import Claim
from quantizing import small
from trimtab.lower import TARGETS, lower_float
from trimtab.measure import evaluate, latencies
from trimtab.recover import Settings
from trimtab.tasks import load_task

EXAMPLE = Path(__file__).parents[2] / "examples" / "cifar10_resnet.py"
PROTOCOL = """\
CIFAR-10, 8 bits by `tt.quantize` for each target, ranges from 512 images of train; the artifact is executed on all
10 000 test images and compared with the simulation that matches its runtime. ResNet-20 and ResNet-56 are pretrained;
the others are small and see 6400 images of train twice. Trained 4-bit weights: ResNet-20, all weights but those of the
first and the last layer, activations 8 bits, 100 batches of 128 by `tt.recover` (SGD, its teacher the float network);
timed in turn with the 8-bit file in one run, one thread.
"""
EXACT, GOAL = "onnxruntime", 99.9
GOAL_SIZE, GOAL_SPEED = 13.0, 0.97
CALIBRATION, BATCHES = 4, 50
STEPS, SECONDS, ROWS = 100, 40.0, (1, 32)
TRAINED: dict[str, Callable[[], nn.Module]] = {
    "MobileNetV2 blocks": small.mobile,
    "concatenations": small.concatenating,
    "average pools": small.pooling,
}
NETWORKS = ("ResNet-20", "ResNet-56", *TRAINED)


def run(
    name: str, runtime: str, *, folder: Path, rows: int | None = None, batches: int = BATCHES
) -> list[dict[str, Any]]:
    """One network on one runtime. `rows`: batches of test; `batches`: of train, twice, for what is not pretrained."""
    folder.mkdir(parents=True, exist_ok=True)
    task = _task(name, batches)
    network = tt.capture(task.model, next(iter(task.train))[0])
    target = tt.target(runtime)
    fake = tt.settle(tt.apply(network, tt.quantize(network, target=target)), _calibration(task))
    artifact = tt.lower(fake, target, folder / f"int8{target.suffix}")
    test = list(islice(task.test, rows))
    proof = tt.prove(artifact, fake, test)
    return [
        {
            "network": name,
            "agreement on": runtime,
            "simulation": proof.simulation,
            "rows": proof.rows,
            "same top-1, %": 100 * proof.agreement,
            "identical rows, %": 100 * proof.identical_rows,
            "largest difference": proof.max_abs_diff,
            "same top-1 as trained, %": 100 * proof.training_agreement,
            "integer kernels": sum(proof.integer_ops.values()),
            "float kernels": sum(proof.float_ops.values()),
            "left in float": list(proof.fallbacks),
            "original, test %": 100 * evaluate(network, test, task.metric).value,
            "file, test %": 100 * evaluate(artifact, test, task.metric).value,
        }
    ]


def run_narrow(
    *, folder: Path, rows: int | None = None, steps: int = STEPS, seconds: float = SECONDS
) -> list[dict[str, Any]]:
    """ResNet-20 with trained 4-bit weights beside its 8-bit file: bytes, accuracy, milliseconds."""
    folder.mkdir(parents=True, exist_ok=True)
    task = load_task(str(EXAMPLE), {"depth": "20"})
    torch.manual_seed(0)
    task = replace(task, train=list(islice(task.train, steps)), test=list(islice(task.test, rows)))
    task = replace(task, val=list(islice(task.val, rows)))
    network = tt.capture(task.model, task.train[0][0])
    target = tt.target(EXACT)
    fakes = {
        bits: tt.settle(tt.apply(network, tt.quantize(network, weights=bits, target=target)), _calibration(task))
        for bits in (8, 4)
    }
    settings = Settings(optimizer="sgd", learning_rate=0.01)
    fakes[4] = tt.recover(fakes[4], task, teacher=network, epochs=1, settings=settings).network
    files = {bits: tt.lower(fake, target, folder / f"int{bits}.onnx") for bits, fake in fakes.items()}
    floating = lower_float(network, target, folder / "float.onnx")
    row: dict[str, Any] = {"network": "ResNet-20, trained 4-bit weights", "bytes, float": floating.file_bytes}
    row |= {"original, test %": 100 * evaluate(floating, task.test, task.metric).value}
    for bits, file in files.items():
        row[f"bytes, {bits} bits"] = file.file_bytes
        row[f"{bits} bits, test %"] = 100 * evaluate(file, task.test, task.metric).value
    for batch in ROWS:
        inputs = task.train[0][0][:batch].contiguous()
        times = latencies({str(bits): file for bits, file in files.items()}, inputs, threads=1, seconds=seconds)
        row |= {f"ms, {bits} bits, batch {batch}": timing.median_ms for bits, timing in times.items()}
        row[f"× 8 bits, batch {batch}"] = times["8"].median_ms / times["4"].median_ms
    row["% of float"] = 100 * row["bytes, 4 bits"] / row["bytes, float"]
    return [row]


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """The worst network on each runtime; size and speed of 4-bit weights."""
    found = []
    for runtime in TARGETS:
        own = [row for row in rows if row.get("agreement on") == runtime]
        if not own:
            continue
        where = f"{runtime}: {len(own)} networks on {min(row['rows'] for row in own)} images"
        least = min(row["same top-1, %"] for row in own)
        found.append(Claim(f"{where}: least agreement with the simulation", GOAL, least, "% of top-1", at_least=True))
        if runtime == EXACT:
            least = min(row["identical rows, %"] for row in own)
            found.append(Claim(f"{where}: identical to the integer simulation", 100, least, "% of rows", at_least=True))
    for row in rows:
        if "% of float" in row:
            where = row["network"]
            speeds = [row[f"× 8 bits, batch {batch}"] for batch in ROWS]
            found.append(Claim(f"{where}: file", GOAL_SIZE, row["% of float"], "% of float"))
            found.append(Claim(f"{where}: speed against 8 bits", GOAL_SPEED, min(speeds), "×", at_least=True))
    return found


def _task(name: str, batches: int) -> tt.Task:
    """CIFAR-10 with this network: pretrained, or trained now."""
    torch.manual_seed(0)
    if name not in TRAINED:
        return load_task(str(EXAMPLE), {"depth": name.removeprefix("ResNet-")})
    task = load_task(str(EXAMPLE))
    seen = list(islice(task.train, batches))
    return replace(task, model=small.learn(TRAINED[name](), seen, F.cross_entropy, epochs=2))


def _calibration(task: tt.Task) -> list[Any]:
    return [inputs for inputs, _ in islice(task.train, CALIBRATION)]
