"""MNIST and its two LeNets, as tasks: 55 000 training images, 5000 for choices, 10 000 for the result."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import trimtab as tt

HELD_OUT = 5000
MEAN, STD = 0.1307, 0.3081
BLACK = -MEAN / STD


class LeNet300(nn.Module):
    """LeNet-300-100: 266 610 weights and biases."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x.flatten(1))))))


class LeNet5(nn.Module):
    """The LeNet-5 that came with Caffe: 431 080 weights and biases."""

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


class Digits:
    """A re-iterable of normalized batches. `shift`: shuffled, and moved by up to so many pixels each way."""

    def __init__(self, images: Tensor, labels: Tensor, *, batch: int, shift: int = 0) -> None:
        self.images, self.labels, self.batch, self.shift = images, labels, batch, shift

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.labels)) if self.shift else torch.arange(len(self.labels))
        for rows in order.split(self.batch):
            images = self.images[rows]
            yield (moved(images, self.shift) if self.shift else images), self.labels[rows]


def moved(images: Tensor, most: int) -> Tensor:
    """Every image shifted by its own random whole pixels, black where nothing was. [rows, 1, 28, 28]"""
    windows = F.pad(images, (most,) * 4, value=BLACK).unfold(2, 28, 1).unfold(3, 28, 1)
    down, right = torch.randint(2 * most + 1, (2, len(images)))
    return windows[torch.arange(len(images)), :, down, right]


def read(split: str) -> tuple[Tensor, Tensor]:
    """Normalized images [rows, 1, 28, 28] and labels of a split in the folder that TRIMTAB_DATA names."""
    with np.load(Path(os.environ["TRIMTAB_DATA"], "mnist", f"{split}.npz"), allow_pickle=False) as arrays:
        images, labels = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"].astype("int64"))
    return (images[:, None].float() / 255 - MEAN) / STD, labels


def accuracy(outputs: Tensor, labels: Tensor) -> float:
    """Share of rows whose largest output is the label, 0..1."""
    return (outputs.argmax(1) == labels).double().mean().item()


def task(model: nn.Module, *, shift: int = 1, rows: int | None = None) -> tt.Task:
    """MNIST for `model`; of the training images only the first `rows`."""
    images, labels = read("train")
    return tt.Task(
        model=model,
        train=Digits(images[:-HELD_OUT][:rows], labels[:-HELD_OUT][:rows], batch=128, shift=shift),
        val=Digits(images[-HELD_OUT:], labels[-HELD_OUT:], batch=1000),
        test=Digits(*read("test"), batch=1000),
        loss=F.cross_entropy,
        metric=accuracy,
    )
