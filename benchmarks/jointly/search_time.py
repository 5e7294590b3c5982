"""What a profile and the searches in it take, in time and in memory, beside a training step of the float network."""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import trimtab as tt
from harness import Claim
from trimtab.job import Job
from trimtab.plan import Budget, Options
from trimtab.report import Stages
from trimtab.tasks import load_task

EXAMPLE = Path(__file__).parents[2] / "examples" / "cifar10_resnet.py"
PROTOCOL = """\
Profile and search: capture, baseline, every option's loss on validation inputs, kernel times and the latency model,
and five searches under size and latency; nothing trained. Pretrained ResNet-20 on CIFAR-10; ResNet-18 with random
weights on 256 + 256 random images of 224×224. Two threads. Peak memory is that of a process of its own, beside one that
makes three training steps (SGD with momentum) of the float network on batches of 128, for ResNet-18 of 32.
"""
GOALS = {"ResNet-20": 5.0, "ResNet-18": 20.0}
MEMORY = 3.0
SHARES = (0.9, 0.75, 0.6, 0.5, 0.4)


def run(name: str) -> list[dict[str, Any]]:
    """One row: minutes, and both peaks."""
    found = {what: _alone(what, name) for what in ("train", "profile")}
    return [
        {
            "profile of": name,
            "minutes": found["profile"]["seconds"] / 60,
            "searches, s": found["profile"]["searches"],
            "options": found["profile"]["options"],
            "filling error, median": found["profile"]["filling error"],
            "latency model, worst left out, %": found["profile"]["latency error"],
            "peak, MB": found["profile"]["peak"] / 2**20,
            "peak of a training step, MB": found["train"]["peak"] / 2**20,
        }
    ]


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """Minutes and memory of each network."""
    found = []
    for row in (row for row in rows if "profile of" in row):
        name = row["profile of"]
        found.append(Claim(f"{name}: profile and search", GOALS[name], row["minutes"], "min"))
        ratio = row["peak, MB"] / row["peak of a training step, MB"]
        found.append(Claim(f"{name}: peak memory of profile and search", MEMORY, ratio, "× a training step"))
    return found


def _alone(what: str, name: str) -> dict[str, Any]:
    """`what` in a process of its own."""
    parents = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    ran = subprocess.run(
        [sys.executable, __file__, what, name],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(parents)},
    )
    return dict(json.loads(ran.stdout.splitlines()[-1]))


def _task(name: str) -> tt.Task:
    if name == "ResNet-20":
        return load_task(str(EXAMPLE), {"depth": "20", "batch": "128"})
    from zoo.vision import torchvision

    torch.manual_seed(0)
    model: nn.Module = torchvision.models.get_model("resnet18", weights=None)
    batches = [(torch.randn(32, 3, 224, 224), torch.randint(0, 1000, (32,))) for _ in range(16)]
    return tt.Task(
        name=name,
        model=model,
        train=batches[:8],
        val=batches[8:],
        test=batches[8:],
        loss=F.cross_entropy,
        metric=_right,
    )


def _right(outputs: Tensor, targets: Tensor) -> float:
    return float((outputs.argmax(1) == targets).float().mean())


def _train(name: str) -> dict[str, Any]:
    task = _task(name)
    optimizer = torch.optim.SGD(task.model.parameters(), 0.01, momentum=0.9)
    task.model.train()
    for _, (inputs, targets) in zip(range(3), task.train, strict=False):
        optimizer.zero_grad()
        task.loss(task.model(inputs), targets).backward()
        optimizer.step()
    return {}


def _profile(name: str) -> dict[str, Any]:
    task = _task(name)
    budget = Budget(size="50%", latency="50%")
    begun = time.perf_counter()
    with TemporaryDirectory() as folder:
        same: dict[str, Any] = {"seed": 0, "options": Options(), "progress": Stages(quiet=True)}
        with Job.open(task, Path(folder) / "run", budget=budget, target="onnxruntime", **same) as job:
            profile = job.profile
            profiled = time.perf_counter()
            for share in SHARES:
                tt.search(profile, Budget(size=f"{share}x", latency=f"{share}x"))
    ended = time.perf_counter()
    return {
        "seconds": ended - begun,
        "searches": ended - profiled,
        "options": sum(len(unit.options) for unit in profile.units),
        "filling error": profile.filling_error,
        "latency error": 100 * (profile.latency_fit.worst_error or 0.0),
    }


if __name__ == "__main__":
    torch.set_num_threads(2)
    result = {"train": _train, "profile": _profile}[sys.argv[1]](sys.argv[2])
    print(json.dumps({**result, "peak": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))
