"""The tasks that budgets and orders are tried on: digits, LeNet-5 on MNIST (trained here), ResNet-20 on CIFAR-10."""

from pathlib import Path

import trimtab as tt
from pruning.lenets import trained
from trimtab.tasks import load_task

EXAMPLE = Path(__file__).parents[2] / "examples" / "cifar10_resnet.py"


def load(name: str, folder: Path) -> tt.Task:
    """`digits`, `LeNet-5` or `ResNet-20`. LeNet-5 is trained for five epochs (seed 0) and kept in `folder`."""
    if name == "digits":
        return load_task("digits")
    if name == "ResNet-20":
        return load_task(str(EXAMPLE), {"depth": "20", "batch": "128"})
    return trained(name, seed=0, folder=folder)[1]
