"""Networks whose costs are products of widths in every way: residual, concatenation, depthwise, grouped, padded."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from trimtab.graph import capture
from trimtab.lower import target
from trimtab.plan import LayerDecision
from trimtab.search import Profile
from trimtab.search.space import narrower, shapes_of, units_of


class Mixed(nn.Module):
    """Residual add, concatenation, depthwise and grouped convolution, ResNet's option-A shortcut, a flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.inner = nn.Conv2d(16, 24, 3, padding=1)
        self.outer = nn.Conv2d(24, 16, 3, padding=1, bias=False)
        self.same = nn.Conv2d(16, 16, 1)
        self.down = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.depth = nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False)
        self.side = nn.Conv2d(24, 8, 1)
        self.into = nn.Conv2d(32, 24, 1)
        self.join = nn.Conv2d(32, 32, 1)
        self.last = nn.Conv2d(32, 24, 3, padding="same", groups=4)
        self.fc1 = nn.Linear(24 * 4, 20)
        self.fc2 = nn.Linear(20, 5)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.relu(x + self.outer(F.relu(self.inner(x))))
        x = F.relu(x + self.same(x))
        x = F.relu(self.down(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8)))
        x = F.relu(self.into(x))
        x = F.relu(torch.cat([self.depth(x), self.side(x)], 1))
        z = F.relu(self.last(F.relu(self.join(x))))
        return self.fc2(F.relu(self.fc1(F.adaptive_avg_pool2d(z, 2).flatten(1))))


class Sequence1d(nn.Module):
    """1-d convolutions, one of them dilated, and a linear layer that is called at every position."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(4, 16, 5, padding="same", dilation=2)
        self.conv2 = nn.Conv1d(16, 16, 3, groups=16)
        self.each = nn.Linear(16, 12)
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        return self.head(F.relu(self.each(x.transpose(1, 2))).mean(1))


def captured(model):
    example = torch.randn(3, 4, 20) if isinstance(model, Sequence1d) else torch.randn(3, 3, 8, 8)
    return capture(model.eval(), example)


def profile_of(network, seed=0, limited=(), **changed):
    """A profile with random losses (less where more is kept) and random orders, without measuring anything."""
    drawn = np.random.default_rng(seed)
    orders = {group.name: tuple(drawn.permutation(group.width).tolist()) for group in network.groups}
    units = []
    runtime = target("onnxruntime")
    for unit in units_of(network, runtime, orders, narrower(limited, runtime)):
        options = tuple(
            option.model_copy(update={"loss": float(drawn.uniform(0, 1)) * (1 - option.kept / unit.width)})
            for option in unit.options
        )
        units.append(unit.model_copy(update={"options": options}))
    parts = {
        "fingerprint": network.fingerprint,
        "target": "onnxruntime",
        "seed": seed,
        "criterion": "magnitude",
        "units": tuple(units),
        "layers": tuple(shapes_of(network, units)),
        "baseline": {"size": 1e5, "macs": 1e6, "bops": 1e9},
    }
    return Profile(**(parts | changed))


def random_choice(profile, drawn):
    """One option of every unit."""
    return [int(drawn.integers(len(unit.options))) for unit in profile.units]


def decisions_of(plan) -> dict[str, LayerDecision]:
    return {decision.layer: decision for decision in plan.layers}
