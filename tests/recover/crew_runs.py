"""Recoveries that end alike in one process and in several.

`torchrun … crew_runs.py FOLDER` does them all in every process and writes what came out to FOLDER/NAME-RANK.pt.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
import torchmetrics
from accelerate import PartialState
from torch import Tensor, nn

import trimtab as tt
from trimtab.lower import onnxruntime
from trimtab.plan import Gradual, LayerDecision, Plan, Weights
from trimtab.recover import Recovered, Settings, recover, settle
from trimtab.recover.settings import Imitation
from trimtab.tasks.task import Task

STEADY = Settings(optimizer="sgd", learning_rate=0.05, freeze_norm_at=1.0)
DISTILL = Settings(optimizer="sgd", learning_rate=0.05, freeze_norm_at=1.0, distillation=1.0)


class Rows(nn.Module):
    """[rows, 6] to three classes."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.hidden, self.dropout, self.head = nn.Linear(6, 16), nn.Dropout(dropout), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(F.relu(self.hidden(x))))


class Images(nn.Module):
    """[rows, 2, 6, 6] to three classes; one batch norm has no weights, one standardizes a weight, not the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8, affine=False, momentum=0.3)
        self.bias = nn.Parameter(0.1 * torch.randn(1, 8, 6, 6))
        self.head = nn.Linear(8, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(x + self.bn2(self.conv2(x)) + self.bias)
        weight = F.batch_norm(self.head.weight[None], None, None, training=True)[0]
        return F.linear(x.mean((2, 3)), weight)


class Queries(nn.Module):
    """[rows, 6] against four learned queries: one layer reads those, which are as many for any batch."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(4, 6))
        self.key, self.value, self.head = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.value(x) @ self.key(self.queries).T)


class Shuffled:
    """Batches in random order with noise, both from torch's global generator, drawn batch by batch."""

    def __init__(self, x: Tensor, y: Tensor, batch: int) -> None:
        self.x, self.y, self.batch = x, y, batch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in torch.randperm(len(self.y)).split(self.batch):
            yield self.x[rows] + 0.05 * torch.randn_like(self.x[rows]), self.y[rows]


class SummedLoss(torchmetrics.Metric):
    """A sum over rows: rows that are counted twice show."""

    higher_is_better = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, target: Tensor) -> None:
        self.total += F.cross_entropy(outputs, target, reduction="sum")

    def compute(self) -> Tensor:
        return self.total


def last(outputs: Tensor, target: Tensor) -> float:
    """Of equal metrics the later epoch is the best: what comes back is the network at the end."""
    return 0.0


def lab(model: Callable[[], nn.Module], *shape: int, dtype: torch.dtype = torch.float32) -> tuple[Task, tt.Network]:
    """Batches of 13, 13, 13 and 1 rows for training, 9 and 4 for validation: shares are uneven, one is empty."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        module = model().to(dtype).eval()
        for buffer in module.buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 1.5)
        x = 1.5 * torch.randn(53, *shape, dtype=dtype) + 0.5
    y = (x.flatten(1)[:, :3] + x.flatten(1)[:, 3:6]).argmax(1)
    val = [(x[40:49], y[40:49]), (x[49:], y[49:])]
    train = Shuffled(x[:40], y[:40], 13)
    task = Task(model=module, train=train, val=val, test=None, loss=F.cross_entropy, metric=last)
    return task, tt.capture(module, x[:3])


def rows(dtype: torch.dtype = torch.float64) -> tuple[Task, tt.Network]:
    return lab(Rows, 6, dtype=dtype)


def images(dtype: torch.dtype = torch.float64) -> tuple[Task, tt.Network]:
    return lab(Images, 2, 6, 6, dtype=dtype)


def halved(network: tt.Network) -> tt.Network:
    """The network with smaller weights: its teacher has something to teach."""
    damaged = network.clone()
    with torch.no_grad():
        for parameter in damaged.parameters():
            if parameter.dim() > 1:
                parameter.mul_(0.5)
    return damaged


def without_classes(task: Task) -> Task:
    """Targets that are no classes, so that outputs are compared as values."""
    return replace(task, train=[(x, y[:, None].float()) for x, y in task.train])


def plain(folder: Path) -> Recovered:
    task, network = rows()
    return recover(network, task, epochs=3, settings=STEADY)


def clipped(folder: Path) -> Recovered:
    task, network = rows()
    return recover(network, task, epochs=3, settings=Settings(learning_rate=0.01, clip_norm=0.01, accumulate=3))


def measured(folder: Path) -> Recovered:
    task, network = rows()
    return recover(network, replace(task, metric=SummedLoss()), epochs=2, settings=STEADY)


def normed(folder: Path) -> Recovered:
    task, network = images()
    return recover(network, task, epochs=3, settings=STEADY)


def normed_until_frozen(folder: Path) -> Recovered:
    task, network = images(torch.float32)
    return recover(network, task, epochs=2, settings=STEADY.model_copy(update={"freeze_norm_at": 0.5, "ema": 0.9}))


def distilled(folder: Path) -> Recovered:
    task, network = images(torch.float32)
    imitate = (Imitation(places="auto"), Imitation(kind="attention", places=(("conv1", "conv1"),)))
    settings = STEADY.model_copy(update={"imitate": imitate})
    return recover(halved(network), task, teacher=network, epochs=2, settings=settings)


def distilled_values(folder: Path) -> Recovered:
    """Distances are divided by the variance of the teacher's values over the whole batch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        task, network = rows(torch.float32)
        return recover(halved(network), without_classes(task), teacher=network, epochs=3, settings=DISTILL)


def quantized(folder: Path) -> Recovered:
    return recover_quantized(*images(torch.float32))


def quantized_queries(folder: Path) -> Recovered:
    return recover_quantized(*lab(Queries, 6))


def recover_quantized(task: Task, network: tt.Network) -> Recovered:
    schemes = {"weight": onnxruntime.WEIGHT_INT8, "activation": onnxruntime.ACTIVATION_INT8}
    layers = tuple(LayerDecision(layer=layer.name, **schemes) for layer in network.layers)
    plan = Plan(fingerprint=network.fingerprint, target="onnxruntime", layers=layers)
    fake = settle(tt.apply(network, plan), [x for x, _ in task.val], structure_changed=False)
    settings = STEADY.model_copy(update={"learning_rate": 0.005, "scale_rate": 10.0})  # small: rounding is chaotic
    return recover(fake, task, epochs=1, settings=settings)


def pruned(folder: Path) -> Recovered:
    task, network = images()
    sparse = tuple(LayerDecision(layer=name, sparsity=Weights(fraction=0.5)) for name in ("conv1", "conv2"))
    plan = Plan(fingerprint=network.fingerprint, target="onnxruntime", layers=sparse)
    prepared = tt.prepare(network, None, plan, schedule=Gradual(every=1, stop=0.5))
    return recover(prepared, task, epochs=3, settings=STEADY)


def set_back(folder: Path) -> Recovered:
    """The loss of one batch is not finite, in the last process only."""
    task, network = rows()
    calls: list[int] = []

    def loss(outputs: Tensor, y: Tensor) -> Tensor:
        calls.append(1)
        spoilt = len(calls) == 6 and (not dist.is_initialized() or dist.get_rank() == dist.get_world_size() - 1)
        return F.cross_entropy(outputs, y) * (torch.nan if spoilt else 1.0)

    return recover(network, replace(task, loss=loss), epochs=2, settings=STEADY)


def resumed(folder: Path) -> Recovered:
    """Begun by `begin` in one process where this is several, and the other way round."""
    task, network = images()
    begun = folder / ("one.safetensors" if dist.is_initialized() else "several.safetensors")
    return recover(network, task, epochs=3, settings=STEADY, checkpoint=begun)


class Killed(Exception):  # noqa: N818 - what happened to the run
    """In the middle of the second epoch."""


def begin(checkpoint: Path) -> None:
    """The run `normed`, killed."""
    task, network = images()
    calls: list[int] = []

    def loss(outputs: Tensor, y: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 7:
            raise Killed
        return F.cross_entropy(outputs, y)

    try:
        recover(network, replace(task, loss=loss), epochs=3, settings=STEADY, checkpoint=checkpoint)
    except Killed:
        return
    raise AssertionError("it came to its end")


def with_dropout(folder: Path) -> Recovered:
    """Differs with the number of processes, but not between them."""
    task, network = lab(lambda: Rows(dropout=0.5), 6)
    return recover(network, task, epochs=2, settings=STEADY)


def hurried(folder: Path) -> Recovered:
    """The clocks of processes differ; it is process 0 that says when time is up: here never."""
    task, network = rows()
    deadline = 0.0 if dist.is_initialized() and dist.get_rank() else 1e18
    return recover(network, task, epochs=3, settings=STEADY, deadline=deadline)


RUNS = (
    plain,
    clipped,
    measured,
    normed,
    normed_until_frozen,
    distilled,
    distilled_values,
    quantized,
    quantized_queries,
    pruned,
    set_back,
    resumed,
    hurried,
)


def refusals() -> dict[str, str]:
    """What is said where processes do not do the same."""
    task, network = rows()
    rank, size = dist.get_rank(), dist.get_world_size()
    own = [(x[rank::size][:2], y[rank::size][:2]) for x, y in task.val]
    said = {}
    for name, changes, seed in (
        ("seed", {}, rank),
        ("rows", {"train": own}, 0),
        ("length", {"train": list(task.val)[rank:]}, 0),
        ("val", {"val": own}, 0),
    ):
        try:
            recover(network, replace(task, **changes), epochs=1, seed=seed)
        except tt.TrimtabError as error:
            said[name] = f"{type(error).__name__}: {error}"
    return said


def main(folder: Path) -> None:
    PartialState(cpu=True)  # Accelerate's, which calls torch.distributed.init_process_group("gloo")
    begin(folder / "several.safetensors")
    for run in (*RUNS, with_dropout):
        result = run(folder)
        keep(folder, run.__name__, [result.network.state_dict(), [entry.to_json() for entry in result.history]])
    keep(folder, "refusals", refusals())
    dist.destroy_process_group()


def keep(folder: Path, name: str, what: object) -> None:
    torch.save(what, folder / f"{name}-{dist.get_rank()}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
