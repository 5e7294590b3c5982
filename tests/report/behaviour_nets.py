"""A task whose best network is known in closed form, and networks that are damaged in one way each."""

import torch
from torch import Tensor, nn

from trimtab.graph import capture
from trimtab.measure import evaluate
from trimtab.report.behaviour import Compared
from trimtab.tasks import Task

CLASSES, SIDE, SIGMA = 4, 7, 1.6
ROWS = {"train": 500, "val": 500, "test": 3000}


class Halves(nn.Module):
    """Linear discriminant of the class means: calibrated, and best. Reads one of two halves that say the same."""

    def __init__(self, means: Tensor, half: int = 0) -> None:
        super().__init__()
        self.half = half
        self.pool, self.linear = nn.AvgPool2d(2), nn.Linear(SIDE * SIDE, len(means))
        with torch.no_grad():
            self.linear.weight.copy_(means / SIGMA**2)
            self.linear.bias.copy_(-means.square().sum(1) / (2 * SIGMA**2))

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pool(x)
        begin = self.half * SIDE
        return self.linear(pooled[..., begin : begin + SIDE].flatten(1))


class OneClass(Halves):
    """Takes the last class for another one too often."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) - torch.tensor([0.0] * (CLASSES - 1) + [1.2])


class Overconfident(Halves):
    """Three times as sure, and right as often."""

    def forward(self, x: Tensor) -> Tensor:
        return 3 * super().forward(x)


class Brittle(Halves):
    """Has a term that is zero on every clean image, and not on noise."""

    def forward(self, x: Tensor) -> Tensor:
        fine = x - nn.functional.interpolate(self.pool(x), scale_factor=2.0)
        return super().forward(x) + 0.3 * fine.abs().flatten(1).sum(1, keepdim=True) * torch.tensor(
            [1.0, 0.0, 0.0, 0.0]
        )


class ByHeart(Halves):
    """Knows the rows that it was trained on."""

    def __init__(self, means: Tensor, rows: Tensor, labels: Tensor) -> None:
        super().__init__(means)
        self.register_buffer("rows", rows.flatten(1))
        self.register_buffer("labels", nn.functional.one_hot(labels, CLASSES).float())

    def forward(self, x: Tensor) -> Tensor:
        same = (torch.cdist(x.flatten(1), self.rows, compute_mode="donot_use_mm_for_euclid_dist") < 1e-3).float()
        return super().forward(x) + 100 * same @ self.labels


def accuracy(outputs: Tensor, labels: Tensor) -> float:
    return float((outputs.argmax(-1) == labels).double().mean())


def made(seed: int = 0) -> tuple[Task, Tensor, dict[str, tuple[Tensor, Tensor]]]:
    """The task with the best network, the class means, and the rows of every split."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(CLASSES, SIDE * SIDE, generator=generator) * 0.6
    data = {}
    for split, rows in ROWS.items():
        labels = torch.randint(CLASSES, (rows,), generator=generator)
        small = means[labels] + SIGMA * torch.randn(rows, SIDE * SIDE, generator=generator)
        images = small.view(rows, 1, SIDE, SIDE).repeat_interleave(2, 2).repeat_interleave(2, 3)
        data[split] = torch.cat([images, images], 3), labels
    loaders = {split: list(zip(x.split(250), y.split(250), strict=True)) for split, (x, y) in data.items()}
    task = Task(model=Halves(means).eval(), loss=nn.functional.cross_entropy, metric=accuracy, **loaders)
    return task, means, data


def compared(task: Task, damaged: nn.Module, seed: int = 0) -> Compared:
    """The task's own network beside another one, as if that were what was compressed."""
    example = task.train[0][0][:3]
    original, trained = capture(task.model, example), capture(damaged.eval(), example)
    return Compared(
        task=task,
        before=original,
        after=trained,
        original=original,
        trained=trained,
        evaluated=tuple(evaluate(network, task.test, task.metric) for network in (original, trained)),
        seed=seed,
    )
