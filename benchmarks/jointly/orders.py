"""Joint against one after the other: how small a file gets at the same drop, with the same training."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import torch

import trimtab as tt
from harness import Claim
from jointly.trained_tasks import load
from trimtab.plan import Budget, Options, Order
from trimtab.solve import coded_bits

PROTOCOL = """\
Orders: the smallest file within a drop (LeNet-5 on MNIST 0.2 points, ResNet-20 on CIFAR-10 0.5), as `compress --drop`
finds it on val in four rounds, each of three epochs whatever the order; the drop on test beside it. The
sequences share the budget between their halves in the way that they themselves predict to lose least. Seed 0. Entropy:
of each layer's codes by themselves, what an ideal coder without context would need, beside the file that runs.
"""
DROPS = {"LeNet-5": "0.002", "ResNet-20": "0.005"}
EPOCHS, ROUNDS = 3, 4
GOALS = {"worse": 20.0, "better": 5.0}
ORDERS: tuple[Order, ...] = tuple(order for order in get_args(Order) if "only" not in order)


def run(name: str, order: Order, *, folder: Path, epochs: int = EPOCHS, rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """One row: the smallest file of one order."""
    task = load(name, folder)
    options = Options(epochs=epochs, rounds=rounds, order=order)
    result = tt.compress(task, budget=Budget(drop=DROPS[name]), run=folder / f"{name}-{order}", options=options)
    plan = result.plan
    return [
        {
            "order of": name,
            "order": order,
            "size, bytes": result.compressed.file_bytes,
            "entropy of the codes, bytes": _entropy(Path(result.artifact)) / 8,
            "original, bytes": result.baseline.file_bytes,
            "drop on val, points": 100 * min(p.drop for p in result.frontier if p.costs["size"] == _size(result)),
            "drop on test, points": 100 * result.drop.value,
            "groups cut": len(plan.groups),
            "branches removed": len(plan.branches),
            "bits": str(sorted(d.weight.bits for d in plan.layers if d.weight is not None)),
        }
    ]


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """Per cent by which the joint file is smaller than those of the sequences."""
    found = []
    for name in DROPS:
        sizes = {row["order"]: row["size, bytes"] for row in rows if row.get("order of") == name}
        if len(sizes) < len(ORDERS):
            continue
        sequences = sorted(size for order, size in sizes.items() if order != "joint")
        for which, size in zip(("better", "worse"), sequences, strict=True):
            smaller = 100 * (1 - sizes["joint"] / size)
            found.append(
                Claim(f"{name}: file against the {which} order", GOALS[which], smaller, "% smaller", at_least=True)
            )
    return found


def _size(result: tt.Result) -> float:
    return float(result.compressed.file_bytes)


def _entropy(artifact: Path) -> float:
    """Bits of all weights' codes, each tensor coded at its own order-0 entropy."""
    tensors = (onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(artifact).graph.initializer)
    codes = (tensor.astype(np.int16) for tensor in tensors if tensor.ndim > 1 and tensor.dtype.itemsize == 1)
    return sum(coded_bits(torch.from_numpy(each)) for each in codes)
