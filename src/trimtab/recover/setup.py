"""From a network, a task and settings to a trainer that is ready for its first step."""

from collections.abc import Sized
from dataclasses import dataclass
from typing import Any

import torch

from trimtab.errors import ConfigError, NumericsError, TaskError
from trimtab.graph import Network
from trimtab.prepare import Prepared
from trimtab.recover.average import Average
from trimtab.recover.batchnorm import has_batch_norm
from trimtab.recover.distill import class_dims
from trimtab.recover.distributed import assemble
from trimtab.recover.epoch import Trainer, updates_in
from trimtab.recover.imitation import Imitator, Taps, imitators
from trimtab.recover.optimizer import build_optimizer
from trimtab.recover.precision import choose_layout, set_layout, training_dtype
from trimtab.recover.pressure import Pressure
from trimtab.recover.seeding import seeded
from trimtab.recover.settings import Settings
from trimtab.recover.teacher import Teacher, copied
from trimtab.tasks.rows import lay_out
from trimtab.tasks.switches import evaluating
from trimtab.tasks.task import Inputs, Loader, Task, call


@dataclass(frozen=True)
class First:
    """The first training batch, and the number of batches."""

    inputs: Inputs
    target: Any
    steps: int


def look(loader: Loader, seed: int) -> First:
    """Read the first batch; the batches are counted, where the loader has no length."""
    with seeded(seed, 0, loader):
        first = next(iter(loader), None)
        steps = len(loader) if isinstance(loader, Sized) else sum(1 for _ in loader)
    if first is None:
        raise TaskError("recover: the training loader has no batches; give at least one")
    return First(*first, steps)


def set_up(
    source: Network | Prepared,
    teacher: Teacher | None,
    task: Task,
    settings: Settings,
    first: First,
    *,
    epochs: int,
    seed: int,
) -> tuple[Trainer, list[Taps]]:
    """A trainer on copies of network and teacher, and the taps to take out at the end."""
    _check(source, teacher, settings)
    layout = choose_layout(first.inputs, settings)
    copy = source.clone()
    prepared, network = (copy, copy.network) if isinstance(copy, Prepared) else (None, copy)
    set_layout(network, layout)
    if prepared is not None:
        prepared.begin(epochs * updates_in(first.steps, settings))
    with seeded(seed, 0):
        pressure = Pressure(network, settings.penalty) if settings.penalty is not None else None
    average = Average(network, settings.ema) if settings.ema is not None else None
    asked = average.network if average is not None and settings.mean_teacher else None
    if teacher is not None:
        asked = copied(teacher, layout)
    with seeded(seed, 0):
        taps, following = _imitators(network, asked, settings, lay_out(first.inputs, layout))
    return Trainer(
        network=network,
        teacher=asked,
        loss=task.loss,
        optimizer=build_optimizer(network, settings, [p for one in following for _, p in one.projections()]),
        settings=settings,
        dtype=training_dtype(network, settings.precision),
        layout=layout,
        crew=assemble(network),
        normalizes_by_batch=has_batch_norm(network),
        classes=_classes(network, task, seed) if first.target is None else None,
        prepared=prepared,
        pressure=pressure,
        average=average,
        imitators=following,
    ), taps


def _check(source: Network | Prepared, teacher: Teacher | None, settings: Settings) -> None:
    network = source.network if isinstance(source, Prepared) else source
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise NumericsError(f"recover: {name} holds NaN or infinity before training; check the weights")
    if settings.mean_teacher and teacher is not None:
        raise ConfigError("recover: mean_teacher and another teacher; leave one of them out")
    if settings.imitate and teacher is None and not settings.mean_teacher:
        raise ConfigError("recover: imitate needs a teacher; give teacher=…, or leave imitate out")


def _imitators(
    network: Network, teacher: Any, settings: Settings, inputs: Inputs
) -> tuple[list[Taps], tuple[Imitator, ...]]:
    if not settings.imitate:
        return [], ()
    ours, theirs = Taps(network), Taps(teacher)

    def run() -> None:
        with torch.no_grad(), evaluating(network):
            call(network, inputs)
            call(teacher, inputs)

    return [ours, theirs], imitators(settings.imitate, ours, theirs, run)


def _classes(network: Network, task: Task, seed: int) -> tuple[int | None, ...]:
    """Without training targets, those of val say what the outputs are."""
    with seeded(seed, 0, task.val):
        inputs, target = next(iter(task.val))
    with torch.no_grad(), evaluating(network):
        return class_dims(call(network, inputs), target)
