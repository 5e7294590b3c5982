"""Recover what compression cost: fine-tuning, quantization-aware training and distillation in one loop."""

import time
from collections.abc import Mapping, Sized
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from trimtab.errors import ConfigError, NumericsError, TaskError
from trimtab.graph import Network
from trimtab.measure.metric import evaluate, higher_is_better
from trimtab.recover.batchnorm import has_batch_norm
from trimtab.recover.checkpoint import Entry, Progress, State, digest, load, save
from trimtab.recover.epoch import DeadlinePassed, NonFiniteLossError, OnStep, Pace, Trainer, train_epoch
from trimtab.recover.optimizer import (
    build_optimizer,
    cosine_rate,
    optimizer_tensors,
    restore_optimizer,
    trained_parameters,
)
from trimtab.recover.precision import choose_layout, set_layout, training_dtype
from trimtab.recover.seeding import seeded
from trimtab.recover.settings import Settings
from trimtab.tasks.rows import lay_out
from trimtab.tasks.task import Inputs, Loader, Task

TRIES = 3


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """The network that was best on the validation split (in eval mode), its metric, and how it went.

    `history` begins with the network as it came (epoch 0), which is what is returned if no epoch was better.
    """

    network: Network
    best_metric: float
    epochs_done: int
    history: tuple[Entry, ...]


class DivergedError(NumericsError):
    """The loss stopped being finite three times. `recovered` holds the best network so far."""

    def __init__(self, message: str, recovered: Recovered) -> None:
        super().__init__(message)
        self.recovered = recovered


def recover(
    network: Network,
    task: Task,
    *,
    teacher: Network | None = None,
    epochs: int,
    seed: int = 0,
    settings: Settings | None = None,
    checkpoint: Path | None = None,
    on_step: OnStep | None = None,
    deadline: float | None = None,
) -> Recovered:
    """Train a copy of `network` on `task.train` for `epochs` and return the copy as it was when best on `task.val`.

    Fake-quantization inside the network trains with it. The result depends on network, task, teacher, epochs, seed and
    settings alone: with a `checkpoint` (a file, replaced after every epoch) a killed run that is started again ends
    with the same bytes. `on_step(done, total, text)` is called after every batch. Past `deadline` (`time.monotonic()`)
    training stops at the end of a batch; an unfinished epoch counts if it is the best, but is not in the checkpoint.
    A loss that is not finite goes back to the last finished epoch at half the learning rate.
    Raises: DivergedError when that happened three times; NumericsError for data or starting weights that are not
            finite; RunError for a checkpoint of another run; TaskError for a loader without batches; ConfigError.
    """
    if epochs < 1:
        raise ConfigError(f"recover: epochs must be at least 1, got {epochs}")
    settings = settings or Settings()
    identity = {
        "seed": str(seed),
        "epochs": str(epochs),
        "settings": settings.to_json(),
        "starting weights": digest(network.state_dict()),
        "teacher": digest(teacher.state_dict()) if teacher is not None else "",
    }
    first, steps = _look(task.train, seed)
    trainer = _prepare(network.clone(), teacher.clone() if teacher else None, task, settings, first)
    run = _Recovery(trainer, task, epochs, steps, seed, checkpoint, identity, on_step, deadline)
    return run.finish()


def _look(loader: Loader, seed: int) -> tuple[Inputs, int]:
    """The first inputs, and the number of batches (counted, where the loader has no length)."""
    with seeded(seed, 0, loader):
        first = next(iter(loader), None)
        steps = len(loader) if isinstance(loader, Sized) else sum(1 for _ in loader)
    if first is None:
        raise TaskError("recover: the training loader has no batches; give at least one")
    return first[0], steps


def _prepare(network: Network, teacher: Network | None, task: Task, settings: Settings, first: Inputs) -> Trainer:
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise NumericsError(f"recover: {name} holds NaN or infinity before training; check the weights")
    layout = choose_layout(first, settings)
    set_layout(network, layout)
    if teacher is not None:
        teacher.eval()
        set_layout(teacher, layout)
    return Trainer(
        network=network,
        teacher=teacher,
        loss=task.loss,
        optimizer=build_optimizer(network, settings),
        settings=settings,
        dtype=training_dtype(network, settings.precision),
        layout=layout,
        normalizes_by_batch=has_batch_norm(network),
    )


@dataclass(frozen=True)
class _Recovery:
    trainer: Trainer
    task: Task
    epochs: int
    steps: int
    seed: int
    checkpoint: Path | None
    identity: Mapping[str, str]
    on_step: OnStep | None
    deadline: float | None

    def finish(self) -> Recovered:
        state = self._begin()
        while state.progress.epochs_done < self.epochs and not self._late():
            try:
                state = self._advance(state)
            except NonFiniteLossError as error:
                state = self._step_back(state, error)
                continue
            except DeadlinePassed:
                state = self._count_partial(state)
                break
            self._save(state)
        return self._result(state)

    def _begin(self) -> State:
        if self.checkpoint is not None and self.checkpoint.exists():
            state = load(self.checkpoint, self.identity)
            self._restore(state)
            return state
        with seeded(self.seed, 0, self.task.val):
            metric = self._evaluate()
        start = Progress(best_metric=metric, history=(Entry(epoch=0, metric=metric, learning_rate=0.0),))
        weights = _copy(self.trainer.network.state_dict())
        state = State(progress=start, network=weights, best=weights, optimizer={})
        self._save(state)
        return state

    def _advance(self, state: State) -> State:
        """One epoch, judged on the validation split. On an exception `state` is still whole."""
        epoch = state.progress.epochs_done
        factor = 0.5**state.progress.setbacks
        pace = Pace(
            epoch=epoch,
            steps=self.steps,
            total=self.epochs * self.steps,
            rate_factor=factor,
            deadline=self.deadline,
            on_step=self.on_step,
            text=f"epoch {epoch + 1} of {self.epochs}, best {state.progress.best_metric:.4f}",
        )
        with seeded(self.seed, epoch + 1, self.task.train, self.task.val):
            loss = train_epoch(self.trainer, self.task.train, pace)
            try:
                metric = self._evaluate()
            except NumericsError as error:
                raise NonFiniteLossError(f"recover: after epoch {epoch + 1}: {error}") from error
        entry = Entry(epoch=epoch + 1, train_loss=loss, metric=metric, learning_rate=self._rate(epoch, factor))
        return self._judged(state, entry, epochs_done=epoch + 1)

    def _count_partial(self, state: State) -> State:
        epoch = state.progress.epochs_done
        try:
            with seeded(self.seed, epoch + 1, self.task.val):
                metric = self._evaluate()
        except NumericsError:  # the unfinished epoch went astray: what was best before it still is
            return state
        rate = self._rate(epoch, 0.5**state.progress.setbacks)
        entry = Entry(epoch=epoch + 1, metric=metric, learning_rate=rate, note="stopped by the deadline")
        return self._judged(state, entry, epochs_done=epoch)

    def _judged(self, state: State, entry: Entry, epochs_done: int) -> State:
        """The state after an epoch; of equal metrics the later counts as best, for it was trained longer."""
        before, metric = state.progress, entry.metric
        assert metric is not None
        best = metric >= before.best_metric if higher_is_better(self.task.metric) else metric <= before.best_metric
        weights = _copy(self.trainer.network.state_dict())
        return State(
            progress=Progress(
                epochs_done=epochs_done,
                best_metric=metric if best else before.best_metric,
                setbacks=before.setbacks,
                history=(*before.history, entry),
            ),
            network=weights,
            best=weights if best else state.best,
            optimizer=optimizer_tensors(self.trainer.optimizer, self._parameters()),
        )

    def _step_back(self, state: State, error: NonFiniteLossError) -> State:
        before = state.progress
        setbacks = before.setbacks + 1
        rate = self._rate(before.epochs_done, 0.5**setbacks)
        note = f"{error}; back to epoch {before.epochs_done} at half the learning rate"
        entry = Entry(epoch=before.epochs_done + 1, learning_rate=rate, note=note)
        progress = Progress(
            epochs_done=before.epochs_done,
            best_metric=before.best_metric,
            setbacks=setbacks,
            history=(*before.history, entry),
        )
        state = replace(state, progress=progress)
        self._restore(state)
        if setbacks == TRIES:
            kept = f"the best weights are in {self.checkpoint}" if self.checkpoint else "the error has the best so far"
            raise DivergedError(
                f"{error}, the {TRIES}rd time; {kept}; lower settings.learning_rate ({self._rate(0, 1.0):.3g})",
                self._result(state),
            ) from error
        return state

    def _result(self, state: State) -> Recovered:
        network = self.trainer.network
        network.load_state_dict(dict(state.best))
        set_layout(network, torch.contiguous_format)
        network.eval()
        return Recovered(
            network=network,
            best_metric=state.progress.best_metric,
            epochs_done=state.progress.epochs_done,
            history=state.progress.history,
        )

    def _evaluate(self) -> float:
        network, layout = self.trainer.network, self.trainer.layout
        network.eval()
        evaluation = evaluate(
            lambda *args, **kwargs: network(*lay_out(args, layout), **lay_out(kwargs, layout)),
            self.task.val,
            self.task.metric,
        )
        return evaluation.value

    def _restore(self, state: State) -> None:
        self.trainer.network.load_state_dict(dict(state.network))
        restore_optimizer(self.trainer.optimizer, self._parameters(), state.optimizer)

    def _save(self, state: State) -> None:
        if self.checkpoint is not None:
            save(self.checkpoint, state, self.identity)

    def _parameters(self) -> dict[str, nn.Parameter]:
        return trained_parameters(self.trainer.network.named_parameters())

    def _rate(self, epoch: int, factor: float) -> float:
        return factor * cosine_rate(epoch * self.steps, self.epochs * self.steps, self.trainer.settings)

    def _late(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline


def _copy(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
