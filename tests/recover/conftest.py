"""A small convolutional network on scikit-learn's digits, trained a little, whole and damaged."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimtab.graph import Network, capture
from trimtab.tasks.digits import Batches, accuracy
from trimtab.tasks.task import Task


class SmallNet(nn.Module):
    """[rows, 1, 8, 8] to ten classes, with BatchNorm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(16 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.relu(self.bn2(self.conv2(x)))
        return self.head(self.dropout(x.flatten(1)))


@dataclass(frozen=True)
class Lab:
    """A task, its network as trained, and the same with half of the channels and all of the head's bias gone."""

    task: Task
    network: Network
    damaged: Network

    def with_task(self, **changes: object) -> "Lab":
        return replace(self, task=replace(self.task, **changes))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small only lose by more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def lab() -> Lab:
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.from_numpy(data.images).float()[:, None] / 16
    labels = torch.from_numpy(data.target).long()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = SmallNet()
        train = Batches(images[:640], labels[:640], batch=64, shuffle=True)
        optimizer = torch.optim.Adam(model.parameters(), 5e-3)
        for _ in range(6):
            for x, y in train:
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
    task = Task(
        model=model.eval(),
        train=train,
        val=Batches(images[640:1000], labels[640:1000], batch=200),
        test=None,
        loss=F.cross_entropy,
        metric=accuracy,
    )
    network = capture(model, images[:5])
    damaged = network.clone()
    with torch.no_grad():
        weights = dict(damaged.named_parameters())
        weights["conv1.weight"][::2] = 0
        weights["conv2.weight"][1::2] = 0
        weights["head.bias"].zero_()
    return Lab(task, network, damaged)
