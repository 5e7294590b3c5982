"""The smallest file with training: rounded, pruned and coded together, down to a size."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trimtab as tt
from harness import Claim
from jointly.trained_tasks import EXAMPLE
from parts import Log
from pruning.lenets import trained
from trimtab.measure import evaluate
from trimtab.plan import PER_TENSOR, LayerDecision, Penalty, Plan, Scheme
from trimtab.recover import Settings
from trimtab.tasks import load_task

PROTOCOL = """\
Trained: LeNets of five epochs (LeNet-300-100: 20), and pretrained CIFAR-10 ResNets. All weights in 4 bits, one scale a
layer; the bits of an arithmetic code are in the loss, with a strength that grows each epoch until they come to the goal,
and the dense network is the teacher; rates fall to zero. Units that do nothing any more are cut. Epochs and size were
chosen on val (seed 0); the file is read back for test. Every byte of it counts, architecture included.
"""


@dataclass(frozen=True)
class Case:
    """The bytes and the accuracy (%) to come to, and how.

    The penalty's strength (for a bit) is multiplied by `growth` after every epoch until codes take `coded` bytes by its
    own count; mantissas of scales and biases keep `precision` bits.
    """

    network: str
    bytes: int
    accuracy: float
    seeds: tuple[int, ...]
    epochs: int
    coded: int
    strength: float
    growth: float
    rate: float
    precision: int


CASES = {
    "LeNet-300-100": Case("LeNet-300-100", 6000, 98.4, (0, 1, 2), 60, 14_000, 1e-6, 1.3, 3e-3, 3),
}


def run(name: str, seed: int, *, folder: Path, epochs: int | None = None) -> list[dict[str, Any]]:
    """One row: the bytes of the file, and what is read back from it."""
    case = CASES[name]
    dense, task = _dense(case.network, seed, folder)
    scheme = Scheme(grid="symmetric", bits=4, granularity=PER_TENSOR)
    layers = tuple(LayerDecision(layer=layer.name, weight=scheme) for layer in dense.layers)
    plan = Plan(fingerprint=dense.fingerprint, target="onnxruntime", layers=layers)
    whole = scheme.bits * sum(dense.module.get_parameter(layer.weight).numel() for layer in dense.layers)
    settings = Settings(
        learning_rate=case.rate,
        weight_decay=0.0,
        penalty=Penalty(kind="entropy", strength=case.strength, growth=case.growth, until=1 - 8 * case.coded / whole),
    )
    recovered = tt.recover(
        tt.apply(dense, plan),
        task,
        teacher=dense,
        epochs=epochs or case.epochs,
        seed=seed,
        settings=settings,
        checkpoint=folder / f"{name}-{seed}.safetensors",
        on_step=Log(f"{name}, seed {seed}"),
    )
    packed = tt.pack(tt.shrink(recovered.network), folder / f"{name}-{seed}.trim", precision=case.precision)
    read = tt.load(packed.path)
    accuracy = {split: 100 * evaluate(read, getattr(task, split), task.metric).value for split in ("val", "test")}
    return [
        {
            "trained": name,
            "seed": seed,
            "bytes": packed.bytes,
            "times smaller": 4 * sum(parameter.numel() for parameter in dense.parameters()) / packed.bytes,
            "accuracy, val %": accuracy["val"],
            "accuracy, test %": accuracy["test"],
            "original, test %": 100 * evaluate(dense, task.test, task.metric).value,
            **{f"{kind}, bytes": round(packed.of(kind)) for kind in ("values", "positions", "scales", "biases")},
        }
    ]


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """The worst of the seeds."""
    found = []
    for name, case in CASES.items():
        of = [row for row in rows if row.get("trained") == name]
        if of:
            seeds = f"worst of seeds {', '.join(str(row['seed']) for row in of)}" if len(case.seeds) > 1 else "seed 0"
            worst = min(row["accuracy, test %"] for row in of)
            found.append(Claim(f"{name}: accuracy, {seeds}", case.accuracy, worst, "%", at_least=True))
            found.append(Claim(f"{name}: bytes, {seeds}", case.bytes, max(row["bytes"] for row in of), "bytes"))
    return found


def _dense(network: str, seed: int, folder: Path) -> tuple[tt.Network, tt.Task]:
    if network.startswith("LeNet"):
        return trained(network, seed=seed, folder=folder)
    if network == "ResNet-8":
        task = load_task(str(EXAMPLE.with_name("mlperf_tiny_resnet8.py")))
    else:
        task = load_task(str(EXAMPLE), {"depth": network.removeprefix("ResNet-"), "batch": "128"})
    return tt.capture(task.model, next(iter(task.train))[0]), task
