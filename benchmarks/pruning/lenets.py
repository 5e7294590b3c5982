"""Single weights of the MNIST LeNets: how few are left at a given error."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

import trimtab as tt
from harness import Claim
from pruning.digits import LeNet5, LeNet300, task
from trimtab.measure import evaluate
from trimtab.plan import Fraction, Gradual
from trimtab.recover import Settings

PROTOCOL = """\
MNIST: 55 000 images train (moved by up to one pixel), 5000 choose, 10 000 are looked at once, at the end.
A LeNet is trained from random weights, its weights are ranked by magnitude over the whole network, and gradual
pruning with distillation from the dense network brings it to the goal. Counted are weights and biases that are not
zero, after units that nobody reads are gone, against all weights and biases of the dense network.
"""
DENSE = Settings(learning_rate=1e-3, weight_decay=1e-2, distillation=0.0, precision="float32")
SPARSE = Settings(learning_rate=4e-3, weight_decay=0.0, precision="float32")
SCHEDULE = Gradual(stop=0.5)

GOALS: dict[str, tuple[Callable[[], nn.Module], float, float, float, int, int]] = {
    # network: (how it is made, times fewer, largest error %, share of entries removed, epochs dense, epochs sparse)
    "LeNet-300-100": (LeNet300, 60.0, 1.8, 1 - 1 / 66, 20, 100),
    "LeNet-5": (LeNet5, 110.0, 0.9, 1 - 1 / 100, 5, 15),
}
SEEDS = (0, 1, 2)


def trained(name: str, *, seed: int, folder: Path) -> tuple[tt.Network, tt.Task]:
    """A dense LeNet of so many epochs, and its task; its weights are kept in `folder`."""
    make, _, _, _, epochs, _ = GOALS[name]
    torch.manual_seed(seed)
    digits = task(make())
    path = folder / f"dense-{name}-{seed}.safetensors"
    if not path.exists():
        network = tt.capture(digits.model, next(iter(digits.val))[0])
        dense = tt.recover(network, digits, epochs=epochs, seed=seed, settings=DENSE).network
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in dense.state_dict().items()}, path)
    digits.model.load_state_dict(load_file(path))
    return tt.capture(digits.model, next(iter(digits.val))[0]), digits


def sparse(dense: tt.Network, digits: tt.Task, removed: float, *, epochs: int, **how: Any) -> tt.Network:
    """`dense` without so large a share of its weights; `how` is for `recover`."""
    plan = tt.prune(dense, Fraction(removed=removed), granularity="weights", criterion="magnitude", allocation="global")
    prepared = tt.prepare(dense, dense.example, plan, schedule=SCHEDULE)
    return tt.shrink(tt.recover(prepared, digits, teacher=dense, epochs=epochs, settings=SPARSE, **how).network)


def run(name: str, seed: int, *, epochs: int | None = None, show: Any = None) -> dict[str, Any]:
    """One LeNet from random weights to sparse ones."""
    make, _, _, removed, dense_epochs, sparse_epochs = GOALS[name]
    torch.manual_seed(seed)
    digits = task(make())
    network = tt.capture(digits.model, next(iter(digits.val))[0])
    dense = tt.recover(network, digits, epochs=epochs or dense_epochs, seed=seed, settings=DENSE, on_step=show).network
    small = sparse(dense, digits, removed, epochs=epochs or sparse_epochs, seed=seed, on_step=show)
    error = {
        split: _percent_wrong(evaluate(small, getattr(digits, split), digits.metric).value) for split in ("val", "test")
    }
    left, total = _not_zero(small), sum(p.numel() for p in network.parameters())
    return {
        "network": name,
        "seed": seed,
        "dense error, test %": _percent_wrong(evaluate(dense, digits.test, digits.metric).value),
        "error, val %": error["val"],
        "error, test %": error["test"],
        "left": left,
        "times fewer": total / left,
    }


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """The worst of the seeds."""
    found = []
    for name, (_, fewer, error, *_) in GOALS.items():
        mine = [row for row in rows if row.get("network") == name]
        if mine:
            seeds = f"worst of seeds {', '.join(str(row['seed']) for row in mine)}"
            found.append(Claim(f"{name}: error, {seeds}", error, max(r["error, test %"] for r in mine), "%"))
            least = min(row["times fewer"] for row in mine)
            found.append(Claim(f"{name}: times fewer weights, {seeds}", fewer, least, "×", at_least=True))
    return found


def _percent_wrong(accuracy: float) -> float:
    return round(100 * (1 - accuracy), 9)


def _not_zero(network: tt.Network) -> int:
    return sum(int(parameter.count_nonzero()) for parameter in network.parameters())
