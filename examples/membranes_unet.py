"""Cell membranes in electron microscopy (ISBI 2012) with a U-Net: every pixel is cell or membrane.

    trimtab compress examples/membranes_unet.py --drop 0.01 --size 12%

Needs `em_membrane/train.npz` and `em_membrane/test.npz` in TRIMTAB_DATA. The metric is the intersection over union of
membranes, the rarer class; the last four slices of train are the validation split.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import Batches, arrays, baseline
from trimtab.tasks import Task

HELD_OUT, SIDE = 4, 128


class Double(nn.Sequential):
    """Two 3×3 convolutions with batch norm."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__(
            nn.Conv2d(width_in, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )


class UNet(nn.Module):
    """Down three times and up again, with what was seen on the way down beside it (Ronneberger et al. 2015)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.first = Double(1, width)
        self.down = nn.ModuleList(Double(a, b) for a, b in pairwise(widths))
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairwise(widths))
        self.join = nn.ModuleList(Double(2 * a, a) for a in widths[:-1])
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        seen = [self.first(x)]
        for block in self.down:
            seen.append(block(F.max_pool2d(seen[-1], 2)))
        x = seen.pop()
        for up, join in zip(reversed(self.up), reversed(self.join), strict=True):
            x = join(torch.cat([up(x), seen.pop()], 1))
        return self.head(x)


def read(split: str) -> tuple[Tensor, Tensor]:
    """Slices [n, 1, 512, 512] in about -2..2; 1 where a membrane is."""
    stored = arrays(f"em_membrane/{split}.npz")
    return torch.from_numpy(stored["images"])[:, None].float() / 64 - 2, 1 - torch.from_numpy(stored["masks"]).long()


def tiles(images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Squares of 128 pixels beside each other. [rows, 1, 128, 128] and [rows, 128, 128]"""

    def cut(x: Tensor) -> Tensor:
        squares = x.unfold(-2, SIDE, SIDE).unfold(-2, SIDE, SIDE)
        return squares.flatten(0, -3)[:, None] if x.dim() == 4 else squares.flatten(0, -3)

    return cut(images).contiguous(), cut(masks).contiguous()


class Turned(Batches):
    """Squares mirrored and turned at random, pictures and masks alike."""

    def __iter__(self):
        for x, y in super().__iter__():
            turns, mirrored = int(torch.randint(4, ())), bool(torch.randint(2, ()))
            x, y = x.rot90(turns, (-2, -1)), y.rot90(turns, (-2, -1))
            yield (x.flip(-1), y.flip(-1)) if mirrored else (x, y)


def membrane_iou(outputs: Tensor, masks: Tensor) -> float:
    """Pixels that are and are called membrane, over those that are or are called so. 0..1"""
    called, there = outputs.argmax(1) == 1, masks == 1
    return float((called & there).sum() / (called | there).sum().clamp(min=1))


def task(width: int = 16, batch: int = 8, epochs: int = 20) -> Task:
    images, masks = read("train")
    train = Turned(*tiles(images[:-HELD_OUT], masks[:-HELD_OUT]), batch=batch, shuffle=True)
    return Task(
        model=baseline(f"membranes-{width}-{epochs}", lambda: UNet(width), train, F.cross_entropy, epochs=epochs),
        train=train,
        val=Batches(*tiles(images[-HELD_OUT:], masks[-HELD_OUT:]), batch=16),
        test=Batches(*tiles(*read("test")), batch=16),
        loss=F.cross_entropy,
        metric=membrane_iou,
    )
