"""A task of seconds for tests of whole runs: which quadrant of a noisy image is bright."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import trimtab.conclude
import trimtab.job
import trimtab.judge
from trimtab.compress import compress
from trimtab.plan import Budget, Options, Result
from trimtab.tasks import load_task

LADDER = (1.0, 0.5)
WHOLE_NETWORKS = 6
SECONDS = 0.05
BUDGET = {"size": "11kB", "macs": "60%", "drop": "0.1"}
OPTIONS = Options(epochs=4)
COMMAND = ("--size", "11kB", "--macs", "60%", "--drop", "0.1", "--epochs", "4")

SOURCE = """\
import torch
import torch.nn.functional as F
from torch import nn
from trimtab.tasks import Task


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 48, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(48)
        self.head = nn.Linear(48 * 4, 4)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.head(F.max_pool2d(x, 2)[:, :, :2, :2].flatten(1))


def images(rows, batch):
    labels = torch.randint(4, (rows,))
    x = torch.rand(rows, 1, 8, 8)
    for row, label in enumerate(labels.tolist()):
        x[row, 0, 4 * (label // 2) : 4 * (label // 2) + 4, 4 * (label % 2) : 4 * (label % 2) + 4] += 0.25
    return [(x[i : i + batch], labels[i : i + batch]) for i in range(0, rows, batch)]


def accuracy(outputs, labels):
    return (outputs.argmax(1) == labels).double().mean().item()


def task(seed: int = 0, with_test: bool = True):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        train, val, test = images(384, 64), images(128, 64), images(128, 64)
        model = Tiny()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(3):
            for x, y in train:
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
    torch.set_num_threads(threads)
    return Task(
        model=model.eval(), train=train, val=val, test=test if with_test else None,
        loss=F.cross_entropy, metric=accuracy,
    )
"""

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


QUICK = f"""
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts without one
import trimtab.conclude, trimtab.job, trimtab.judge
from trimtab.cli import main
trimtab.job.WHOLE_NETWORKS = {WHOLE_NETWORKS}
trimtab.job.LADDER, trimtab.judge._LATENCY_SECONDS, trimtab.conclude._LATENCY_SECONDS = {LADDER}, {SECONDS}, {SECONDS}
main()
"""


@contextmanager
def quick() -> Iterator[None]:
    """A short ladder, few timings and short ones in this process, as `started` has them in others."""
    with (
        patch.object(trimtab.job, "LADDER", LADDER),
        patch.object(trimtab.job, "WHOLE_NETWORKS", WHOLE_NETWORKS),
        patch.object(trimtab.judge, "_LATENCY_SECONDS", SECONDS),
        patch.object(trimtab.conclude, "_LATENCY_SECONDS", SECONDS),
    ):
        yield


def finished_run(factory) -> tuple[Path, Result]:
    """The task's file in a folder with `run`, where it was compressed in this process; shared by all tests in it."""
    if not _FINISHED:
        _FINISHED.append(_finish(factory.mktemp("finished")))
    return _FINISHED[0]


_FINISHED: list[tuple[Path, Result]] = []


def _finish(folder: Path) -> tuple[Path, Result]:
    path = write_task(folder)
    with quick():
        result = compress(
            load_task(str(path)), budget=Budget(**BUDGET), run=folder / "run", options=OPTIONS, spec=str(path)
        )
    return path, result


def write_task(folder: Path, name: str = "tiny.py", source: str = SOURCE) -> Path:
    """The task as a file that the command line can load."""
    path = folder / name
    path.write_text(source)
    return path


def started(arguments: Sequence[object]) -> subprocess.Popen:
    """`trimtab …` in a process of its own, with one thread."""
    command = [sys.executable, "-c", QUICK, *map(str, arguments)]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def call(*arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `trimtab …`."""
    process = started(arguments)
    out, err = process.communicate(timeout=280)
    return process.returncode, out, err


def stop_when(process: subprocess.Popen, seen: Callable[[], bool], with_signal: signal.Signals) -> tuple[str, str]:
    """Send a signal as soon as `seen` says so."""
    begin = time.monotonic()
    while not seen():
        if process.poll() is not None:
            raise AssertionError(f"ended before it was stopped: {process.communicate()}")
        if time.monotonic() - begin > 200:
            process.kill()
            raise AssertionError("what was waited for never came")
        time.sleep(0.002)
    process.send_signal(with_signal)
    return process.communicate(timeout=60)


def events(run: Path) -> list[dict]:
    """What the last attempt at a run has written into its journal so far."""
    journal = run / "journal.jsonl"
    lines = journal.read_text().split("\n")[:-1] if journal.exists() else []
    parsed = [json.loads(line) for line in lines[1:]]
    opened = [place for place, line in enumerate(parsed) if line["event"] == "open"]
    return parsed[opened[-1] :] if opened else []
