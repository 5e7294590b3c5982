"""Pneumonia on chest X-rays (PneumoniaMNIST, Yang et al. 2023): few images, two classes that are not equally frequent.

    trimtab compress examples/pneumonia_cnn.py --drop 0.01 --size 12%

Needs `pneumoniamnist/{train,val,test}.npz` in TRIMTAB_DATA. The metric is the mean of sensitivity and specificity, as
accuracy would let a network pass that calls everybody ill; both are in the report, as the changes by class.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import Batches, arrays, baseline
from trimtab.tasks import Task


class XRayNet(nn.Module):
    """Three 3×3 convolutions with batch norm, each at half the size of the one before, and a linear head."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        widths = [1, width, 2 * width, 4 * width]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths[1:])
        self.head = nn.Linear(widths[-1], 2)

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(norm(conv(x)))
        return self.head(x.mean((2, 3)))


def read(split: str) -> tuple[Tensor, Tensor]:
    """Images [rows, 1, 28, 28] in -1..1; labels 0 normal, 1 pneumonia."""
    stored = arrays(f"pneumoniamnist/{split}.npz")
    return torch.from_numpy(stored["images"])[:, None].float() / 127.5 - 1, torch.from_numpy(stored["labels"]).long()


def moved(images: Tensor) -> Tensor:
    """Each image moved by at most two pixels both ways."""
    windows = F.pad(images, (2,) * 4, mode="replicate").unfold(2, 28, 1).unfold(3, 28, 1)
    down, right = torch.randint(5, (2, len(images)))
    return windows[torch.arange(len(images)), :, down, right]


def balanced_accuracy(outputs: Tensor, labels: Tensor) -> float:
    """The mean over the classes that are there of the share of their rows that is recognized."""
    right = (outputs.argmax(1) == labels).double()
    return float(torch.stack([right[labels == label].mean() for label in labels.unique()]).mean())


def loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy; the healthy are a quarter of the training images and weigh three times as much."""
    return F.cross_entropy(outputs, labels, outputs.new_tensor([3.0, 1.0]))


def task(width: int = 32, batch: int = 64, epochs: int = 30) -> Task:
    train = Batches(*read("train"), batch=batch, shuffle=True, change=moved)
    return Task(
        model=baseline(f"pneumonia-{width}-{epochs}", lambda: XRayNet(width), train, loss, epochs=epochs),
        train=train,
        val=Batches(*read("val"), batch=524),
        test=Batches(*read("test"), batch=624),
        loss=loss,
        metric=balanced_accuracy,
    )
