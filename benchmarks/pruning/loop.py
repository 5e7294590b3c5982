"""What the training loop costs beside one written by hand, and how much faster a cut network trains."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import trimtab as tt
from harness import Claim
from trimtab.plan import LayerDecision, Plan, Weights
from trimtab.prepare import hold_plan
from trimtab.recover import Settings
from trimtab.tasks import load_task

EXAMPLE = Path(__file__).parents[2] / "examples" / "cifar10_resnet.py"
PROTOCOL = """\
ResNet-20, batch 128, bfloat16, channels-last, SGD, half of every layer's weights at zero. The contestants take turns;
a turn is so many steps over the same batches, timed from the end of the first step to the end of the last; medians.
"""
SETTINGS = Settings(optimizer="sgd", learning_rate=0.01, clip_norm=1e9, precision="bfloat16", distillation=0.0)
DISTILLING = SETTINGS.model_copy(update={"distillation": 0.9})
STEPS, TURNS = 24, 7


def run(*, steps: int = STEPS, turns: int = TURNS) -> list[dict[str, Any]]:
    """Seconds a step of every contestant."""
    torch.manual_seed(0)
    task = load_task(str(EXAMPLE), {"depth": "20"})
    batches = [batch for _, batch in zip(range(steps), task.train, strict=False)]
    task = tt.Task(
        model=task.model, train=batches, val=batches[:1], test=None, loss=F.cross_entropy, metric=task.metric
    )
    network = tt.capture(task.model, batches[0][0])
    sparse = _half_sparse(network)
    narrow = tt.apply(network, Plan.uniform(network, keep=0.5))
    contestants: dict[str, Callable[[], float]] = {
        "by hand, masks": lambda: _by_hand(task, sparse, masks=True),
        "recover, masks": lambda: _recover(task, hold_plan(sparse, _plan(network)), SETTINGS),
        "by hand": lambda: _by_hand(task, network, masks=False),
        "recover": lambda: _recover(task, network, SETTINGS),
        "recover, distilling": lambda: _recover(task, network, DISTILLING, teacher=network),
        "teacher's forward": lambda: _forward(task, network),
        "recover, half of the channels": lambda: _recover(task, narrow, SETTINGS),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(turns):
        for name, contestant in contestants.items():
            seconds[name].append(contestant() / (steps - 1))
    return [
        {
            "contestant": name,
            "ms a step": 1000 * statistics.median(times),
            "fastest": 1000 * min(times),
            "slowest": 1000 * max(times),
            "turns": times,
        }
        for name, times in seconds.items()
    ]


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """Medians of the ratios of neighbouring turns."""
    times = {row["contestant"]: row["turns"] for row in rows if "contestant" in row}
    if not times:
        return []

    def ratio(above: str, below: str) -> float:
        return statistics.median(a / b for a, b in zip(times[above], times[below], strict=True))

    teacher = statistics.median(
        (d - r) / t
        for d, r, t in zip(times["recover, distilling"], times["recover"], times["teacher's forward"], strict=True)
    )
    return [
        Claim(
            "loop with masks over one by hand with the same masks",
            10,
            100 * (ratio("recover, masks", "by hand, masks") - 1),
            "% more",
        ),
        Claim("loop over one by hand, nothing removed", 10, 100 * (ratio("recover", "by hand") - 1), "% more"),
        Claim("distillation costs", 1.1, teacher, "teacher's forwards"),
        Claim(
            "half of the channels: an epoch takes less by",
            30,
            100 * (1 - ratio("recover, half of the channels", "recover")),
            "%",
            at_least=True,
        ),
    ]


def _plan(network: tt.Network) -> Plan:
    layers = tuple(LayerDecision(layer=layer.name, sparsity=Weights(fraction=0.5)) for layer in network.layers)
    return Plan(fingerprint=network.fingerprint, target="onnxruntime", layers=layers)


def _half_sparse(network: tt.Network) -> tt.Network:
    return tt.apply(network, _plan(network))


def _recover(task: tt.Task, network: Any, settings: Settings, teacher: tt.Network | None = None) -> float:
    seen: list[float] = []
    tt.recover(
        network, task, teacher=teacher, epochs=1, settings=settings, on_step=lambda *_: seen.append(time.perf_counter())
    )
    return seen[-1] - seen[0]


def _by_hand(task: tt.Task, network: tt.Network, *, masks: bool) -> float:
    """What one would write: autocast, backward, step, and the masks."""
    module = network.clone().module.to(memory_format=torch.channels_last)
    tt_mode = network.clone()
    tt_mode.module = module
    tt_mode.train()
    optimizer = torch.optim.SGD(
        module.parameters(), lr=1e-4, momentum=0.9, nesterov=True, weight_decay=1e-4, fused=True
    )
    held = [(p, (p != 0).to(p.dtype)) for p in module.parameters() if masks and p.dim() > 1]
    seen = []
    for images, labels in task.train:
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = module(images)
        loss = F.cross_entropy(outputs.float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for parameter, keep in held:
                parameter.mul_(keep)
        loss.item()
        seen.append(time.perf_counter())
    return seen[-1] - seen[0]


def _forward(task: tt.Task, network: tt.Network) -> float:
    module = network.clone().eval().module.to(memory_format=torch.channels_last)
    seen = []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for images, _ in task.train:
            module(images.contiguous(memory_format=torch.channels_last))
            seen.append(time.perf_counter())
    return seen[-1] - seen[0]
