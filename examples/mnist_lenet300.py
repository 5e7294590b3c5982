"""MNIST with LeNet-300-100, two hidden layers: 266 610 weights and biases.

    trimtab compress examples/mnist_lenet300.py --drop 0.005 --size 5%

Needs `mnist/train.npz` and `mnist/test.npz` in TRIMTAB_DATA. The baseline takes less than a minute, once.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from common import accuracy, baseline
from mnist_lenet5 import splits
from trimtab.tasks import Task


class LeNet300(nn.Module):
    """784 pixels, 300 and 100 hidden units, ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x.flatten(1))))))


def task(batch: int = 128, epochs: int = 15) -> Task:
    data = splits(batch)
    model = baseline(f"mnist-lenet300-{epochs}", LeNet300, data["train"], F.cross_entropy, epochs=epochs)
    return Task(model=model, **data, loss=F.cross_entropy, metric=accuracy)
