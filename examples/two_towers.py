"""A spoken digit and a picture of one: do they show the same? Two inputs, two towers, one answer.

    trimtab compress examples/two_towers.py --drop 0.01 --size 12%

Needs `fsdd` and `mnist` in TRIMTAB_DATA. Half of the pairs are of the same digit; pairs are drawn once, from a seed.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mnist_lenet5
import speech_cnn
from common import Batches, accuracy, baseline
from trimtab.tasks import Task


class TwoTowers(nn.Module):
    """A CNN for sound, one for pictures, and two layers over both and their product."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.sound = nn.Sequential(
            nn.Conv2d(1, width // 2, 5, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(width // 2),
            nn.ReLU(),
            nn.Conv2d(width // 2, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.picture = nn.Sequential(
            nn.Conv2d(1, width // 2, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width // 2),
            nn.ReLU(),
            nn.Conv2d(width // 2, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.heard = nn.Linear(width, width)
        self.seen = nn.Linear(width * 49, width)
        self.fc = nn.Linear(3 * width, width)
        self.head = nn.Linear(width, 2)

    def forward(self, sound: Tensor, picture: Tensor) -> Tensor:
        heard = torch.tanh(self.heard(self.sound(sound).mean((2, 3))))
        seen = torch.tanh(self.seen(self.picture(picture).flatten(1)))
        return self.head(F.relu(self.fc(torch.cat([heard, seen, heard * seen], 1))))


def pairs(sounds: Batches, pictures: Batches, number: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sounds, pictures, and whether they are of the same digit."""
    generator = torch.Generator().manual_seed(seed)
    (sound, spoken), (picture, shown) = sounds.tensors, pictures.tensors
    heard = torch.randint(len(spoken), (number,), generator=generator)
    other = torch.randint(1, 10, (number,), generator=generator) * (torch.arange(number) % 2)
    wanted = (spoken[heard] + other) % 10
    seen = torch.empty(number, dtype=torch.long)
    for digit in range(10):
        rows, of = (wanted == digit).nonzero()[:, 0], (shown == digit).nonzero()[:, 0]
        seen[rows] = of[torch.randint(len(of), (len(rows),), generator=generator)]
    return sound[heard], picture[seen], (other == 0).long()


def task(width: int = 64, batch: int = 64, epochs: int = 6) -> Task:
    sounds, pictures = speech_cnn.splits(batch), mnist_lenet5.splits(batch)
    train = Batches(*pairs(sounds["train"], pictures["train"], 20_000, 0), batch=batch, shuffle=True)
    return Task(
        model=baseline(f"two-towers-{width}-{epochs}", lambda: TwoTowers(width), train, F.cross_entropy, epochs=epochs),
        train=train,
        val=Batches(*pairs(sounds["val"], pictures["val"], 2000, 1), batch=250),
        test=Batches(*pairs(sounds["test"], pictures["test"], 2000, 2), batch=250),
        loss=F.cross_entropy,
        metric=accuracy,
    )
