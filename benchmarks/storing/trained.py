"""The smallest file with training: pruned, rounded and coded together, down to a size."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trimtab as tt
from harness import Claim
from parts import Log
from pruning.lenets import sparse, trained
from trimtab.measure import evaluate
from trimtab.plan import PER_TENSOR, LayerDecision, Penalty, Plan, Scheme, Weights
from trimtab.prepare import hold_plan
from trimtab.recover import Settings

PROTOCOL = """\
Trained: LeNet-300-100 of 20 epochs. First weights leave by magnitude
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
    dense, task = trained(name, seed=seed, folder=folder)
    how: dict[str, Any] = {
        "seed": seed,
        "on_step": Log(name),
        "checkpoint": folder / f"sparse-{name}-{seed}.safetensors",
    }
    thin = sparse(dense, task, case.removed, epochs=epochs or case.sparse_epochs, **how)
    how["checkpoint"] = folder / f"coded-{name}-{seed}.safetensors"
    recovered = _coded(case, thin, task, teacher=dense, epochs=epochs or case.epochs, **how)
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


def _coded(case: Case, thin: tt.Network, task: tt.Task, **how: Any) -> tt.Network:
    """In few bits, down to the goal; what has left stays away. `how` is for `recover`."""
    scheme = Scheme(grid="symmetric", bits=case.bits, granularity=PER_TENSOR)
    weights = {layer.name: thin.module.get_parameter(layer.weight) for layer in thin.layers}
    zeros = {name: float((weight == 0).double().mean()) for name, weight in weights.items()}
    layers = tuple(
        LayerDecision(layer=name, weight=scheme, sparsity=Weights(fraction=zeros[name]) if zeros[name] else None)
        for name in weights
    )
    plan = Plan(fingerprint=thin.fingerprint, target="onnxruntime", layers=layers)
    whole = scheme.bits * sum(weight.numel() for weight in weights.values())
    penalty = Penalty(
        kind="entropy", strength=case.strength, growth=case.growth, until=max(1 - 8 * case.coded / whole, 1e-3)
    )
    settings = Settings(learning_rate=case.rate, weight_decay=0.0, penalty=penalty)
    return tt.recover(hold_plan(tt.apply(thin, plan), plan), task, settings=settings, **how).network
