"""Channels of the pretrained CIFAR-10 ResNets: accuracy at a given share of the MACs after a short recovery."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import trimtab as tt
from harness import Claim
from trimtab.measure import evaluate, macs
from trimtab.plan import Fraction
from trimtab.prune import CRITERIA
from trimtab.recover import Settings
from trimtab.report import stages
from trimtab.stats import collect
from trimtab.tasks import load_task

EXAMPLE = Path(__file__).parents[2] / "examples" / "cifar10_resnet.py"
PROTOCOL = """\
CIFAR-10, pretrained ResNets, seed 0: 45 000 images train (cropped, flipped), 5000 choose the epoch (the network has
seen them: val is optimistic), 10 000 are looked at once. Channels are ranked by first-order Taylor; any width is
allowed, and widths come from measured output divergence, least in sum under the limit on MACs; recovery is SGD with
distillation from the original. At 2.6× half of the images are warped as well (chosen on val).
"""
SETTINGS = Settings(
    optimizer="sgd", learning_rate=0.01, weight_decay=5e-4, clip_norm=5.0, distillation=0.9, freeze_norm_at=1.0
)
GOALS = {
    # (depth, times fewer MACs): (goal, what it is a goal for, epochs, whether half of the images are warped)
    (56, 2.1): (93.0, "accuracy", 12, False),
    (56, 2.6): (92.6, "accuracy", 12, True),
    (20, 1.6): (0.6, "drop", 15, False),
}


def run(
    depth: int, fewer: float, *, folder: Path, epochs: int | None = None, rows: int | None = None, show: Any = None
) -> dict[str, Any]:
    """One network cut and recovered. Killed and started again it continues from `folder`."""
    task = load_task(str(EXAMPLE), {"depth": str(depth)})
    network = tt.capture(task.model, next(iter(task.train))[0])
    torch.manual_seed(0)
    batches = [batch for _, batch in zip(range(16), task.train, strict=False)]
    plan = _plan(network, task, batches, fewer, folder / f"plan-{depth}-{fewer}.json")
    _, _, planned, warped = GOALS[depth, fewer]
    if warped:
        task = replace(task, train=Warped(task.train))
    cut = tt.settle(tt.apply(network, plan), [inputs for inputs, _ in batches], structure_changed=True)
    recovered = tt.recover(
        cut,
        task,
        teacher=network,
        epochs=epochs or planned,
        settings=SETTINGS,
        checkpoint=folder / f"recover-{depth}-{fewer}.safetensors",
        on_step=show,
    )
    before, after = (100 * evaluate(it, task.test, task.metric).value for it in (network, recovered.network))
    return {
        "network": f"ResNet-{depth}",
        "times fewer MACs": macs(network) / macs(recovered.network),
        "goal, times": fewer,
        "parameters left, %": 100 * _count(recovered.network) / _count(network),
        "epochs": recovered.epochs_done,
        "best on val, %": 100 * recovered.best_metric,
        "original, test %": before,
        "untrained, val %": 100 * evaluate(cut, task.val, task.metric).value,
        "accuracy, test %": after,
        "drop, points": before - after,
        "groups cut": len(plan.groups),
        "branches removed": len(plan.branches),
    }


@dataclass
class Warped:
    """Batches whose second half is turned, zoomed, moved and recoloured a little, each image by its own random amounts.

    What the teacher says of images that it was not trained on tells more than its near certainty about the others.
    """

    batches: Any

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in self.batches:
            half = len(images) // 2
            yield torch.cat([images[:half], _warp(images[half:])]), labels


def _warp(images: Tensor) -> Tensor:
    """By up to 8 degrees, 10 % in size, 6 % of the width, and 0.15 in contrast and brightness. [rows, 3, 32, 32]"""
    angle, zoom, across, down, contrast, brightness = (2 * torch.rand(6, len(images)) - 1) * torch.tensor(
        [[math.radians(8)], [0.1], [0.06], [0.06], [0.15], [0.15]]
    )
    cosine, sine = (1 + zoom) * angle.cos(), (1 + zoom) * angle.sin()
    maps = torch.stack([cosine, -sine, across, sine, cosine, down], 1).view(-1, 2, 3)
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return moved * (1 + contrast).view(-1, 1, 1, 1) + brightness.view(-1, 1, 1, 1)


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """Accuracy (or drop) and the cut, of every network."""
    found = []
    for (depth, fewer), (goal, what, *_) in GOALS.items():
        row = next((r for r in rows if r.get("network") == f"ResNet-{depth}" and r["goal, times"] == fewer), None)
        if row is None:
            continue
        where = f"ResNet-{depth} at {fewer}× fewer MACs"
        found.append(Claim(f"{where}: MACs", fewer, row["times fewer MACs"], "×", at_least=True))
        if what == "drop":
            found.append(Claim(f"{where}: drop", goal, row["drop, points"], "points"))
        else:
            found.append(Claim(f"{where}: accuracy", goal, row["accuracy, test %"], "%", at_least=True))
    return found


def _plan(network: tt.Network, task: tt.Task, batches: list[Any], fewer: float, path: Path) -> tt.Plan:
    if not path.exists():
        plan = tt.prune(
            network,
            Fraction(removed=1 - 1 / fewer, of="macs"),
            granularity="channels",
            criterion="taylor",
            allocation="sensitivity",
            stats=collect(network, batches, task.loss, CRITERIA.load("taylor")().needs),
            batches=batches[:2],
            target=tt.target("onnxruntime").model_copy(update={"channel_multiple": 1}),
            progress=stages(quiet=False),
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(plan.to_json())
    return tt.Plan.from_json(path.read_text(), where=str(path))


def _count(network: tt.Network) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
