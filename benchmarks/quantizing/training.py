"""Quantization with training: the pretrained ResNet-20 in 4, 3, 2 and 1 bits, after a few epochs of distillation."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

import trimtab as tt
from harness import Claim
from quantizing.post_training import EXAMPLE
from trimtab.measure import evaluate
from trimtab.plan import PER_CHANNEL
from trimtab.recover import Settings
from trimtab.tasks import load_task

PROTOCOL = """\
CIFAR-10, pretrained ResNet-20 (91.73 %), seed 0, 6 to 15 epochs: 45 000 images train (cropped, flipped), 5000 choose
the epoch (the network has seen them: val is optimistic), 10 000 are looked at once. The first and the last layer and
the shortcuts have 8 bits. Weights have a scale for every output channel, activations one; ranges start where their
squared error is least and are learned as in LSQ; weights of 2 bits have all four levels (affine, with a zero point).
The teacher is the original. With 4 bits BatchNorm uses its running statistics after the first quarter of the training.
A binary activation is 0 or a learned value: it follows a ReLU.
"""


class Case(NamedTuple):
    """What is trained, and the goal: a drop in points, or an accuracy in per cent."""

    grid: str
    weights: int
    activations: int
    goal: float
    is_drop: bool
    epochs: int
    settings: Settings


SETTINGS = Settings(freeze_norm_at=0.25)
FEW_BITS = Settings(learning_rate=3e-3, freeze_norm_at=1.0)
CASES = {
    "W4A4": Case("symmetric", 4, 4, 0.3, True, 6, SETTINGS),
    "W3A3": Case("symmetric", 3, 3, 0.8, True, 9, FEW_BITS),
    "W2A2": Case("affine", 2, 2, 90.0, False, 15, FEW_BITS),
    "ternary": Case("ternary", 2, 8, 90.5, False, 9, FEW_BITS),
    "binary": Case("binary", 1, 1, 82.0, False, 15, FEW_BITS),
}


def run(
    name: str, *, folder: Path, epochs: int | None = None, rows: int | None = None, show: Any = None
) -> dict[str, Any]:
    """One pair of widths trained. Killed and started again it continues from `folder`."""
    case = CASES[name]
    task = load_task(str(EXAMPLE), {"depth": "20"})
    network = tt.capture(task.model, next(iter(task.train))[0])
    torch.manual_seed(0)
    batches = [inputs for _, (inputs, _) in zip(range(8), task.train, strict=False)]
    fake = tt.settle(tt.apply(network, plan_for(network, case)), batches)
    trained = tt.recover(
        fake,
        task,
        teacher=network,
        epochs=epochs or case.epochs,
        settings=case.settings,
        checkpoint=folder / f"{name}.safetensors",
        on_step=show,
    )
    before, after = (100 * evaluate(it, task.test, task.metric).value for it in (network, trained.network))
    return {
        "trained": name,
        "grid": case.grid,
        "weights, bits": case.weights,
        "activations, bits": case.activations,
        "epochs": trained.epochs_done,
        "untrained, val %": 100 * evaluate(fake, task.val, task.metric).value,
        "best on val, %": 100 * trained.best_metric,
        "original, test %": before,
        "accuracy, test %": after,
        "drop, points": before - after,
    }


def plan_for(network: tt.Network, case: Case) -> tt.Plan:
    """Every layer in these widths, the first and the last in 8 bits."""
    ends = {network.layers[0].name, network.layers[-1].name}

    def decision(name: str) -> tt.LayerDecision:
        grid, of_weight, of_activation = ("symmetric", 8, 8) if name in ends else case[:3]
        return tt.LayerDecision(
            layer=name,
            weight=tt.Scheme(grid=grid, bits=of_weight, granularity=PER_CHANNEL),
            activation=tt.Scheme(grid="affine", bits=of_activation),
            ranges="mse" if of_activation < 8 else "minmax",
        )

    decisions = tuple(decision(layer.name) for layer in network.layers)
    return tt.Plan(fingerprint=network.fingerprint, target="onnxruntime", seed=0, layers=decisions)


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """Drop or accuracy of every case that was trained."""
    found = []
    for name, case in CASES.items():
        row = next((r for r in rows if r.get("trained") == name), None)
        if row is None:
            continue
        if case.is_drop:
            found.append(Claim(f"ResNet-20, {name}, trained: drop", case.goal, row["drop, points"], "points"))
        else:
            accuracy = row["accuracy, test %"]
            found.append(Claim(f"ResNet-20, {name}, trained: accuracy", case.goal, accuracy, "%", at_least=True))
    return found
