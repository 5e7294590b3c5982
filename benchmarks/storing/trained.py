"""The smallest file with training: pruned, rounded and coded together, down to a size."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trimtab as tt
from harness import Claim
from jointly.trained_tasks import EXAMPLE
from parts import Log
from pruning.lenets import SCHEDULE, SPARSE, trained
from trimtab.measure import evaluate
from trimtab.plan import PER_TENSOR, Fraction, LayerDecision, Penalty, Plan, Scheme, Weights
from trimtab.prepare import hold_plan
from trimtab.recover import Settings
from trimtab.tasks import load_task

PROTOCOL = """\
Trained: LeNets of five epochs (LeNet-300-100: 20), and pretrained CIFAR-10 ResNets. First weights leave by magnitude
over the whole network, on the way down in half of the epochs; then what is left is rounded, one scale a layer, with
the bits of an arithmetic code in the loss, whose strength grows each epoch until they come to the goal. The teacher
is the dense network. Units that do nothing any more are cut. All choices on val (seed 0); the file is read back for
test. Every byte of it counts, architecture included.
"""


@dataclass(frozen=True)
class Case:
    """The bytes and the accuracy (%) to come to, and how.

    A share of the weights is `removed` in so many `sparse_epochs`; what is left has `bits`, for `epochs`. The strength
    of the penalty is multiplied by `growth` after every epoch until codes take `coded` bytes by its own count (which
    knows nothing of positions that follow from others). Mantissas of scales and biases keep `precision` bits.
    """

    network: str
    bytes: int
    accuracy: float
    seeds: tuple[int, ...]
    removed: float
    sparse_epochs: int
    bits: int
    epochs: int
    coded: int
    strength: float
    growth: float
    rate: float
    precision: int


CASES = {
    "LeNet-300-100": Case(
        network="LeNet-300-100",
        bytes=6000,
        accuracy=98.4,
        seeds=(0, 1, 2),
        removed=0.985,
        sparse_epochs=60,
        bits=3,
        epochs=20,
        coded=6000,
        strength=3e-6,
        growth=1.0,
        rate=1e-3,
        precision=3,
    ),
}


def run(name: str, seed: int, *, folder: Path, epochs: int | None = None) -> list[dict[str, Any]]:
    """One row: the bytes of the file, and what is read back from it."""
    case = CASES[name]
    dense, task = _dense(case.network, seed, folder)
    sparse = _sparse(case, dense, task, seed, epochs, folder / f"sparse-{name}-{seed}.safetensors")
    recovered = _coded(case, sparse, dense, task, seed, epochs, folder / f"coded-{name}-{seed}.safetensors")
    packed = tt.pack(tt.shrink(recovered), folder / f"{name}-{seed}.trim", precision=case.precision)
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
            seeds = f"worst of seeds {', '.join(str(row['seed']) for row in of)}"
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


def _sparse(
    case: Case, dense: tt.Network, task: tt.Task, seed: int, epochs: int | None, checkpoint: Path
) -> tt.Network:
    """Without the weights that leave."""
    if not case.removed:
        return dense
    amount = Fraction(removed=case.removed)
    plan = tt.prune(dense, amount, granularity="weights", criterion="magnitude", allocation="global")
    recovered = tt.recover(
        tt.prepare(dense, dense.example, plan, schedule=SCHEDULE),
        task,
        teacher=dense,
        epochs=epochs or case.sparse_epochs,
        seed=seed,
        settings=SPARSE,
        checkpoint=checkpoint,
        on_step=Log("sparse"),
    )
    return tt.shrink(recovered.network)


def _coded(
    case: Case, sparse: tt.Network, dense: tt.Network, task: tt.Task, seed: int, epochs: int | None, checkpoint: Path
) -> tt.Network:
    """In few bits, down to the goal; what has left stays away."""
    scheme = Scheme(grid="symmetric", bits=case.bits, granularity=PER_TENSOR)
    weights = {layer.name: sparse.module.get_parameter(layer.weight) for layer in sparse.layers}
    zeros = {name: float((weight == 0).double().mean()) for name, weight in weights.items()}
    layers = tuple(
        LayerDecision(layer=name, weight=scheme, sparsity=Weights(fraction=zeros[name]) if zeros[name] else None)
        for name in weights
    )
    plan = Plan(fingerprint=sparse.fingerprint, target="onnxruntime", layers=layers)
    whole = scheme.bits * sum(weight.numel() for weight in weights.values())
    penalty = Penalty(
        kind="entropy", strength=case.strength, growth=case.growth, until=max(1 - 8 * case.coded / whole, 1e-3)
    )
    recovered = tt.recover(
        hold_plan(tt.apply(sparse, plan), plan),
        task,
        teacher=dense,
        epochs=epochs or case.epochs,
        seed=seed,
        settings=Settings(learning_rate=case.rate, weight_decay=0.0, penalty=penalty),
        checkpoint=checkpoint,
        on_step=Log("in few bits"),
    )
    return recovered.network
