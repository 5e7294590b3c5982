"""CIFAR-10 with the pretrained ResNets of He et al. 2016 (depth 20, 32, 44 or 56), to be compressed.

    trimtab compress examples/cifar10_resnet.py --set depth=20 --size 20% --drop 0.015

Needs two folders, named by environment variables: TRIMTAB_DATA with `cifar10/train.npz` and `cifar10/test.npz`
(`images` uint8 [N, 3, 32, 32], `labels` uint8 [N]), and TRIMTAB_WEIGHTS with `cifar10_resnet<depth>.safetensors`.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from common import accuracy, find
from trimtab.tasks import Task

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
HELD_OUT = 5000  # the last training images are the validation split


class Block(nn.Module):
    """Two 3×3 convolutions. Where the width doubles, the shortcut skips pixels and adds zero channels (option A)."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        stride = width // width_in
        self.conv1 = nn.Conv2d(width_in, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.pad = (width - width_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad)) if self.pad else x
        return F.relu(y + shortcut)


class ResNet(nn.Module):
    """A 3×3 stem, three stages of `blocks` residual blocks of widths 16, 32, 64, a global mean, a linear head."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks)
        self.layer2 = self._stage(16, 32, blocks)
        self.layer3 = self._stage(32, 64, blocks)
        self.linear = nn.Linear(64, 10)

    @staticmethod
    def _stage(width_in: int, width: int, blocks: int) -> nn.Sequential:
        return nn.Sequential(Block(width_in, width), *(Block(width, width) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(F.avg_pool2d(x, x.shape[3]).flatten(1))


class Images:
    """A re-iterable of scaled batches. `augment`: shuffled, cropped and flipped, all from torch's global seed."""

    def __init__(self, images: Tensor, labels: Tensor, *, batch: int, augment: bool = False) -> None:
        self.images, self.labels, self.batch, self.augment = images, labels, batch, augment

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.labels)) if self.augment else torch.arange(len(self.labels))
        for rows in order.split(self.batch):
            images = flip(crop(self.images[rows])) if self.augment else self.images[rows]
            yield self.scaled(images), self.labels[rows]

    def scaled(self, images: Tensor) -> Tensor:
        """Pixels 0..255 as the network wants them."""
        return (images.float() / 255 - MEAN) / STD


def crop(images: Tensor) -> Tensor:
    """A random 32×32 window of each image padded with 4 black pixels. uint8 [rows, 3, 32, 32]"""
    windows = F.pad(images, (4, 4, 4, 4)).unfold(2, 32, 1).unfold(3, 32, 1)  # [rows, 3, 9, 9, 32, 32]
    down, right = torch.randint(9, (2, len(images)))
    return windows[torch.arange(len(images)), :, down, right]


def flip(images: Tensor) -> Tensor:
    """Each image mirrored with probability one half."""
    mirrored = torch.rand(len(images), 1, 1, 1) < 0.5
    return torch.where(mirrored, images.flip(3), images)


def task(depth: int = 20, batch: int = 128) -> Task:
    """Accuracy on val is optimistic, as the network was trained on all 50 000 images: what counts is the drop."""
    weights = find("TRIMTAB_WEIGHTS", f"cifar10_resnet{depth}.safetensors")
    model = ResNet(blocks=(depth - 2) // 6)
    model.load_state_dict(load_file(weights))
    images, labels = read(find("TRIMTAB_DATA", "cifar10/train.npz"))
    return Task(
        model=model.eval(),
        train=Images(images[:-HELD_OUT], labels[:-HELD_OUT], batch=batch, augment=True),
        val=Images(images[-HELD_OUT:], labels[-HELD_OUT:], batch=500),
        test=Images(*read(find("TRIMTAB_DATA", "cifar10/test.npz")), batch=500),
        loss=F.cross_entropy,
        metric=accuracy,
    )


def read(path: Path) -> tuple[Tensor, Tensor]:
    with np.load(path, allow_pickle=False) as arrays:
        return torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"].astype("int64"))
