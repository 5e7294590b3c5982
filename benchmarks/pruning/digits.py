"""MNIST and its two LeNets, as the examples have them, for a model that is not trained yet."""

import sys
from pathlib import Path

import torch.nn.functional as F
from torch import nn

import trimtab as tt

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

from common import Batches
from common import accuracy as accuracy
from mnist_lenet5 import LeNet5 as LeNet5
from mnist_lenet5 import splits
from mnist_lenet300 import LeNet300 as LeNet300


def task(model: nn.Module, *, rows: int | None = None) -> tt.Task:
    """MNIST for `model`; of the training images only the first `rows`. They are moved by up to one pixel."""
    data = splits(batch=128)
    train = data["train"]
    few = [tensor[:rows] for tensor in train.tensors]
    data["train"] = Batches(*few, batch=128, shuffle=True, change=train.change)
    return tt.Task(model=model, **data, loss=F.cross_entropy, metric=accuracy)
