"""The tasks that budgets and orders are tried on: digits, LeNet-5 on MNIST (trained here), ResNet-20 on CIFAR-10."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import trimtab as tt
from pruning.digits import LeNet5, task
from pruning.lenets import DENSE
from trimtab.tasks import load_task

EXAMPLE = Path(__file__).parents[2] / "examples" / "cifar10_resnet.py"
EPOCHS = 5


def load(name: str, folder: Path) -> tt.Task:
    """`digits`, `LeNet-5` or `ResNet-20`. LeNet-5 is trained for five epochs (seed 0) and kept in `folder`."""
    if name == "digits":
        return load_task("digits")
    if name == "ResNet-20":
        return load_task(str(EXAMPLE), {"depth": "20", "batch": "128"})
    return _lenet(folder / "lenet5.safetensors")


def _lenet(path: Path) -> tt.Task:
    torch.manual_seed(0)
    found = task(LeNet5())
    if not path.exists():
        network = tt.capture(found.model, next(iter(found.val))[0])
        trained = tt.recover(network, found, epochs=EPOCHS, seed=0, settings=DENSE).network
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in trained.state_dict().items()}, path)
    found.model.load_state_dict(load_file(path))
    return found
