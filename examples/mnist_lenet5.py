"""MNIST with LeNet-5, as it came with Caffe: 431 080 weights and biases.

    trimtab compress examples/mnist_lenet5.py --drop 0.003 --size 5%

Needs `mnist/train.npz` and `mnist/test.npz` in TRIMTAB_DATA. The baseline takes a minute or two, once.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import Batches, accuracy, arrays, baseline
from trimtab.tasks import Task

HELD_OUT = 5000  # the last training images are the validation split
MEAN, STD = 0.1307, 0.3081


class LeNet5(nn.Module):
    """Two 5×5 convolutions with max pooling, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(800, 500)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv1(x), 2)
        x = F.max_pool2d(self.conv2(x), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def read(split: str) -> tuple[Tensor, Tensor]:
    """Images [rows, 1, 28, 28] with mean 0 and deviation 1 over all pixels, and labels."""
    stored = arrays(f"mnist/{split}.npz")
    images = torch.from_numpy(stored["images"])[:, None].float() / 255
    return (images - MEAN) / STD, torch.from_numpy(stored["labels"]).long()


def shifted(images: Tensor) -> Tensor:
    """Each image moved by at most one pixel both ways."""
    windows = F.pad(images, (1,) * 4, value=-MEAN / STD).unfold(2, 28, 1).unfold(3, 28, 1)
    down, right = torch.randint(3, (2, len(images)))
    return windows[torch.arange(len(images)), :, down, right]


def splits(batch: int) -> dict[str, Batches]:
    """The three splits of MNIST."""
    images, labels = read("train")
    return {
        "train": Batches(images[:-HELD_OUT], labels[:-HELD_OUT], batch=batch, shuffle=True, change=shifted),
        "val": Batches(images[-HELD_OUT:], labels[-HELD_OUT:], batch=1000),
        "test": Batches(*read("test"), batch=1000),
    }


def task(batch: int = 128, epochs: int = 5) -> Task:
    data = splits(batch)
    model = baseline(f"mnist-lenet5-{epochs}", LeNet5, data["train"], F.cross_entropy, epochs=epochs)
    return Task(model=model, **data, loss=F.cross_entropy, metric=accuracy)
