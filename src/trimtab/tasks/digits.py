"""The built-in task: scikit-learn's bundled handwritten digits, and a small convolutional network trained on the spot.

The network is wider than the task needs, on purpose: it is there to be compressed.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimtab.errors import MissingPackageError
from trimtab.tasks.switches import limit_threads
from trimtab.tasks.task import Task


class Residual(nn.Module):
    """Two 3×3 convolutions beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(x + self.bn2(self.conv2(y)))


class DigitsNet(nn.Module):
    """8×8 grey images to ten classes: convolutions, max pooling, residual blocks, a global mean, a linear head."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width // 2, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.pool = nn.MaxPool2d(2)
        self.block1 = Residual(width)
        self.block2 = Residual(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.pool(F.relu(self.bn2(self.conv2(x))))
        x = self.block2(self.block1(x))
        return self.head(x.mean((2, 3)))


class Batches:
    """A re-iterable of `(images, labels)`. `shuffle`: in random order and shifted, both from torch's global seed."""

    def __init__(self, images: Tensor, labels: Tensor, *, batch: int, shuffle: bool = False) -> None:
        self.images, self.labels, self.batch, self.shuffle = images, labels, batch, shuffle

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.labels)) if self.shuffle else torch.arange(len(self.labels))
        for rows in order.split(self.batch):
            images = self.images[rows]
            yield (_shifted(images) if self.shuffle else images), self.labels[rows]


def _shifted(images: Tensor) -> Tensor:
    """Each image moved by -1, 0 or 1 pixel along both sides. [rows, 1, 8, 8]"""
    windows = F.pad(images, (1, 1, 1, 1)).unfold(2, 8, 1).unfold(3, 8, 1)  # [rows, 1, 3, 3, 8, 8]
    down, right = torch.randint(3, (2, len(images)))
    return windows[torch.arange(len(images)), :, down, right]


def accuracy(outputs: Tensor, labels: Tensor) -> float:
    """Fraction of rows whose largest output is the right class, 0..1."""
    return (outputs.argmax(1) == labels).double().mean().item()


def digits(seed: int = 0, epochs: int = 12) -> Task:
    """1797 images, split 60 / 20 / 20 by `seed`; trained for `epochs`, which takes seconds. Same seed, same weights."""
    images, labels = _load()
    # One thread: the sums are then the same on any machine, and such small convolutions gain nothing from more.
    with torch.random.fork_rng(devices=[]), limit_threads(1):
        torch.manual_seed(seed)
        order = torch.randperm(len(labels))
        train, val, test = order.tensor_split([round(0.6 * len(order)), round(0.8 * len(order))])
        loader = Batches(images[train], labels[train], batch=64, shuffle=True)
        model = _trained(DigitsNet(), loader, epochs)
    return Task(
        model=model,
        train=loader,
        val=Batches(images[val], labels[val], batch=256),
        test=Batches(images[test], labels[test], batch=256),
        loss=F.cross_entropy,
        metric=accuracy,
    )


def _load() -> tuple[Tensor, Tensor]:
    """Images [1797, 1, 8, 8] in 0..1, labels [1797]."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise MissingPackageError("task 'digits' needs scikit-learn: pip install 'trimtab[demo]'") from error
    data = load_digits()
    return torch.from_numpy(data.images).float()[:, None] / 16, torch.from_numpy(data.target).long()


def _trained(model: DigitsNet, loader: Batches, epochs: int) -> DigitsNet:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=epochs * len(loader))
    model.train()
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels, label_smoothing=0.1).backward()
            optimizer.step()
            schedule.step()
    return model.eval()
