"""Network intrusion on NSL-KDD (Tavallaee et al. 2009): is a connection an attack? One flow at a time, so batch 1.

    trimtab compress examples/intrusion_mlp.py --drop 0.01 --size 12% --batch 1

Needs `nsl_kdd/{train20,test}.csv.gz` and `nsl_kdd/meta.json` in TRIMTAB_DATA. The test set has attacks that training
never saw: accuracy there is far below that on the validation split, before and after.
"""

import csv
import gzip
import json
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import Batches, accuracy, baseline, find
from trimtab.tasks import Task

LABELS = {"attack", "difficulty"}


class FlowNet(nn.Module):
    """Three hidden layers over the features of one connection."""

    def __init__(self, features: int, width: int = 256) -> None:
        super().__init__()
        self.fc1 = nn.Linear(features, width)
        self.fc2 = nn.Linear(width, width)
        self.fc3 = nn.Linear(width, width // 2)
        self.head = nn.Linear(width // 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))))


def read(split: str) -> tuple[Tensor, Tensor]:
    """Features [rows, n]: categories one-hot, counts and bytes as logarithms; 1 is an attack."""
    with gzip.open(find("TRIMTAB_DATA", f"nsl_kdd/{split}.csv.gz"), "rt") as file:
        rows = list(csv.DictReader(file))
    categories = json.loads(find("TRIMTAB_DATA", "nsl_kdd/meta.json").read_text())["categorical"]
    columns = []
    for name in rows[0]:
        if name in LABELS:
            continue
        values = [row[name] for row in rows]
        if name in categories:
            columns += [[float(value == known) for value in values] for known in categories[name]]
        else:
            columns.append([math.log1p(float(value)) for value in values])
    attack = torch.tensor([row["attack"] != "normal" for row in rows])
    return torch.tensor(columns).T.contiguous(), attack.long()


def task(width: int = 256, batch: int = 128, epochs: int = 20) -> Task:
    x, y = read("train20")
    test, attacks = read("test")
    mean, spread = x.mean(0), x.std(0).clamp(min=1e-3)
    x, test = (x - mean) / spread, ((test - mean) / spread).clamp(-10, 10)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    held, used = order[: len(x) // 5], order[len(x) // 5 :]
    train = Batches(x[used], y[used], batch=batch, shuffle=True)
    model = baseline(
        f"intrusion-{width}-{epochs}", lambda: FlowNet(x.shape[1], width), train, F.cross_entropy, epochs=epochs
    )
    return Task(
        model=model,
        train=train,
        val=Batches(x[held], y[held], batch=1024),
        test=Batches(test, attacks, batch=1024),
        loss=F.cross_entropy,
        metric=accuracy,
    )
