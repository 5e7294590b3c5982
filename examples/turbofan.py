"""Remaining life of turbofan engines (NASA C-MAPSS FD001, Saxena et al. 2008) from their sensors: a regression.

    trimtab compress examples/turbofan.py --drop 0.5 --size 12%

Needs `cmapss_fd001/train.npz` and `cmapss_fd001/test.npz` in TRIMTAB_DATA. The metric is the root mean squared error in
flights, where lower is better; life beyond 125 flights counts as 125, as is usual. A fifth of the engines is held out.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanSquaredError

from common import Batches, arrays, baseline
from trimtab.tasks import Task

WINDOW, LONGEST, HELD_OUT = 30, 125, 20


class LifeNet(nn.Module):
    """1-D convolutions over the last 30 flights of all sensors, two linear layers."""

    def __init__(self, sensors: int, width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(sensors, width, 5, padding=2)
        self.conv2 = nn.Conv1d(width, width, 5, padding=2)
        self.fc1 = nn.Linear(width * (WINDOW // 4), width)
        self.fc2 = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool1d(F.relu(self.conv1(x)), 2)
        x = F.max_pool1d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def read(split: str) -> tuple[Tensor, Tensor, Tensor]:
    """Readings [rows, 24], the engine of each row, and its remaining flights."""
    stored = arrays(f"cmapss_fd001/{split}.npz")
    readings = torch.cat([torch.from_numpy(stored["settings"]), torch.from_numpy(stored["sensors"])], 1)
    life = torch.from_numpy(stored["rul"]).float().clamp(max=LONGEST)
    return readings, torch.from_numpy(stored["unit"]).long(), life


def windows(readings: Tensor, units: Tensor, life: Tensor) -> tuple[Tensor, Tensor]:
    """Every 30 flights in a row of one engine [rows, 24, 30], and what is left after them, over 125 [rows, 1]."""
    found, left = [], []
    for unit in units.unique():
        own = units == unit
        found.append(readings[own].unfold(0, WINDOW, 1))
        left.append(life[own][WINDOW - 1 :])
    return torch.cat(found), torch.cat(left)[:, None] / LONGEST


class RootMeanSquaredError(MeanSquaredError):
    """The root mean squared error in flights."""

    def compute(self) -> Tensor:
        return super().compute() * LONGEST


def task(width: int = 64, batch: int = 128, epochs: int = 15) -> Task:
    readings, units, life = read("train")
    mean, spread = readings.mean(0), readings.std(0).clamp(min=1e-4)
    readings = (readings - mean) / spread
    held = units > int(units.max()) - HELD_OUT
    train = Batches(*windows(readings[~held], units[~held], life[~held]), batch=batch, shuffle=True)
    test, test_units, test_life = read("test")
    last = [rows for unit in test_units.unique() if len(rows := (test_units == unit).nonzero()[:, 0]) >= WINDOW]
    ends = torch.cat([rows[-WINDOW:] for rows in last])  # the usual test: what is left after an engine's last flight
    return Task(
        model=baseline(
            f"turbofan-{width}-{epochs}", lambda: LifeNet(readings.shape[1], width), train, F.mse_loss, epochs=epochs
        ),
        train=train,
        val=Batches(*windows(readings[held], units[held], life[held]), batch=1024),
        test=Batches(*windows(((test - mean) / spread)[ends], test_units[ends], test_life[ends]), batch=1024),
        loss=F.mse_loss,
        metric=RootMeanSquaredError(squared=False),
    )
