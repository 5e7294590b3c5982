"""Recover what compression cost: fine-tuning, quantization-aware training and distillation in one loop."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trimtab.errors import ConfigError, NumericsError
from trimtab.graph import Network
from trimtab.measure.metric import evaluate, higher_is_better
from trimtab.prepare import Prepared
from trimtab.recover.checkpoint import Entry, Progress, State, digest, load, save
from trimtab.recover.clock import Clock
from trimtab.recover.delivery import Recovered, deliver
from trimtab.recover.epoch import DeadlinePassed, NonFiniteLossError, OnStep, Pace, Trainer, train_epoch, updates_in
from trimtab.recover.events import open_events, write
from trimtab.recover.imitation import Taps
from trimtab.recover.optimizer import rate_at
from trimtab.recover.seeding import seeded
from trimtab.recover.settings import Settings
from trimtab.recover.setup import look, set_up
from trimtab.recover.snapshot import copied_tensors, put_back, taken
from trimtab.recover.teacher import Teacher
from trimtab.tasks.rows import lay_out
from trimtab.tasks.task import Task

TRIES = 3


class DivergedError(NumericsError):
    """The loss stopped being finite three times. `recovered` holds the best network so far, if there is one."""

    def __init__(self, message: str, recovered: Recovered | None) -> None:
        super().__init__(message)
        self.recovered = recovered


def recover(
    network: Network | Prepared,
    task: Task,
    *,
    teacher: Teacher | None = None,
    epochs: int,
    seed: int = 0,
    settings: Settings | None = None,
    checkpoint: Path | None = None,
    events: Path | None = None,
    on_step: OnStep | None = None,
    deadline: float | None = None,
) -> Recovered:
    """Train a copy of `network` on `task.train` for `epochs` and return the copy as it was when best on `task.val`.

    Fake-quantization inside the network trains with it. What `prepare` gave becomes sparse on its schedule meanwhile
    and is finalized at the end; before the schedule has ended no epoch counts as best. With a penalty those epochs
    count in which it works; while none has, the latest does. `teacher` is a Network or any module with the same
    outputs. With distillation=1 the targets of `task.train` may be None.
    The result depends on network, task, teacher, epochs, seed and settings alone: with a `checkpoint` (a file,
    replaced after every epoch) a killed run that is started again ends with the same bytes. `events` is a folder for
    TensorBoard. `on_step(done, total, text)` is called after every batch. Past `deadline` (`time.monotonic()`)
    training stops at the end of a batch; an unfinished epoch counts if it is the best, but is not in the checkpoint.
    Where the epochs do not fit into the time, the schedule (rates, what is frozen) follows the clock to its end, and
    the result depends on that.
    A loss that is not finite goes back to the last finished epoch at half the learning rate.
    Raises: DivergedError when that happened three times; NumericsError for data or starting weights that are not
            finite; RunError for a checkpoint of another run; TaskError for a loader without batches; ConfigError, also
            when training ends before the schedule.
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
        "plan": network.plan.to_json() + network.schedule.to_json() if isinstance(network, Prepared) else "",
    }
    first = look(task.train, seed)
    trainer, taps = set_up(network, teacher, task, settings, first, epochs=epochs, seed=seed)
    trainer.crew.same(identity | {"number of batches": str(first.steps)})
    run = _Recovery(trainer, taps, task, epochs, first.steps, seed, checkpoint, identity, events, on_step, deadline)
    return run.finish()


@dataclass(frozen=True)
class _Recovery:
    trainer: Trainer
    taps: list[Taps]
    task: Task
    epochs: int
    steps: int
    seed: int
    checkpoint: Path | None
    identity: Mapping[str, str]
    events: Path | None
    on_step: OnStep | None
    deadline: float | None

    def finish(self) -> Recovered:
        state = self._begin()
        clock = Clock(self.deadline, self.trainer.crew, share=state.progress.epochs_done / self.epochs)
        writer = open_events(self.events if self.trainer.crew.first else None, epochs_done=state.progress.epochs_done)
        try:
            state = self._train(state, clock, writer)
        finally:
            if writer is not None:
                writer.close()
        return self._result(state)

    def _train(self, state: State, clock: Clock, writer: Any) -> State:
        while state.progress.epochs_done < self.epochs and not clock.up and not self._stale(state.progress):
            try:
                state = self._advance(state, clock)
            except NonFiniteLossError as error:
                state = self._step_back(state, error)
                continue
            except DeadlinePassed:
                return self._count_partial(state)
            self._save(state)
            if writer is not None:
                pressure = self.trainer.pressure
                strength = pressure.strength if pressure is not None else None
                write(writer, state.progress.history[-1], self.trainer.network, strength)
        return state

    def _begin(self) -> State:
        if self.checkpoint is not None and self.trainer.crew.sees(self.checkpoint):
            state = load(self.checkpoint, self.identity)
            put_back(self.trainer, state.parts)
            return state
        with seeded(self.seed, 0, self.task.val):
            metric = self._evaluate()
        entry = Entry(epoch=0, metric=metric, learning_rate=0.0)
        state = self._judged(State(progress=Progress(), parts={}), entry, epochs_done=0)
        self._save(state)
        return state

    def _advance(self, state: State, clock: Clock) -> State:
        """One epoch, judged on the validation split. On an exception `state` is still whole."""
        epoch, best = state.progress.epochs_done, state.progress.best_metric
        factor, share = 0.5**state.progress.setbacks, clock.due(epoch / self.epochs) or 0.0
        pace = Pace(
            epoch=epoch,
            epochs=self.epochs,
            steps=self.steps,
            rate_factor=factor,
            clock=clock,
            on_step=self.on_step if self.trainer.crew.first else None,
            text=f"epoch {epoch + 1} of {self.epochs}, best {'none yet' if best is None else f'{best:.4f}'}",
        )
        with seeded(self.seed, epoch + 1, self.task.train, self.task.val):
            loss = train_epoch(self.trainer, self.task.train, pace)
            try:
                metric = self._evaluate()
            except NumericsError as error:
                raise NonFiniteLossError(f"recover: after epoch {epoch + 1}: {error}") from error
        if self.trainer.pressure is not None:
            self.trainer.pressure.epoch_done()
        rate = self._rate(epoch, factor, share)
        entry = Entry(epoch=epoch + 1, train_loss=loss, metric=metric, learning_rate=rate)
        return self._judged(state, entry, epochs_done=epoch + 1)

    def _count_partial(self, state: State) -> State:
        epoch = state.progress.epochs_done
        try:
            with seeded(self.seed, epoch + 1, self.task.val):
                metric = self._evaluate()
        except NumericsError:  # the unfinished epoch went astray: what was best before it still is
            return state
        rate = self._rate(epoch, 0.5**state.progress.setbacks, share=1.0)
        entry = Entry(epoch=epoch + 1, metric=metric, learning_rate=rate, note="stopped by the deadline")
        return self._judged(state, entry, epochs_done=epoch)

    def _judged(self, state: State, entry: Entry, epochs_done: int) -> State:
        """The state after an epoch; of equal metrics the later counts as best, for it was trained longer."""
        before, metric, parts = state.progress, entry.metric, taken(self.trainer)
        assert metric is not None
        prepared, pressure = self.trainer.prepared, self.trainer.pressure
        works = pressure is None or pressure.works
        if prepared is not None and not prepared.finished:
            note = f"at {prepared.level:.0%} of its sparsity, so not to be delivered yet"
            entry = entry.model_copy(update={"note": f"{entry.note}; {note}" if entry.note else note})
            best = better = False
        elif before.best_metric is None or not (works and before.works):
            best = better = before.best_metric is None or works or not before.works
        else:
            best, better = not self._better(before.best_metric, metric), self._better(metric, before.best_metric)
        kept = {name: state.part(name) for name in ("best", "best_pruner")}
        if best:
            kept = {"best": copied_tensors(self.trainer.judged.state_dict()), "best_pruner": parts.get("pruner", {})}
        return State(
            progress=Progress(
                epochs_done=epochs_done,
                best_metric=metric if best else before.best_metric,
                works=works if best else before.works,
                stale=0 if better or before.best_metric is None else before.stale + 1,
                setbacks=before.setbacks,
                history=(*before.history, entry),
            ),
            parts={**parts, **kept},
        )

    def _better(self, metric: float, than: float) -> bool:
        return metric > than if higher_is_better(self.task.metric) else metric < than

    def _step_back(self, state: State, error: NonFiniteLossError) -> State:
        before = state.progress
        setbacks = before.setbacks + 1
        rate = self._rate(before.epochs_done, 0.5**setbacks)
        note = f"{error}; back to epoch {before.epochs_done} at half the learning rate"
        entry = Entry(epoch=before.epochs_done + 1, learning_rate=rate, note=note)
        update = {"setbacks": setbacks, "history": (*before.history, entry)}
        state = replace(state, progress=before.model_copy(update=update))
        put_back(self.trainer, state.parts)
        if setbacks == TRIES:
            kept = f"the best weights are in {self.checkpoint}" if self.checkpoint else "the error has the best so far"
            raise DivergedError(
                f"{error}, the {TRIES}rd time; {kept}; lower settings.learning_rate ({self._rate(0, 1.0):.3g})",
                self._result(state) if state.progress.best_metric is not None else None,
            ) from error
        return state

    def _result(self, state: State) -> Recovered:
        for taps in self.taps:
            taps.remove()
        return deliver(self.trainer, self.task, state, seed=self.seed)

    def _evaluate(self) -> float:
        network, layout = self.trainer.judged, self.trainer.layout
        network.eval()
        forward = self.trainer.crew.forward(network)
        evaluation = evaluate(
            lambda *args, **kwargs: forward(*lay_out(args, layout), **lay_out(kwargs, layout)),
            self.task.val,
            self.task.metric,
        )
        return evaluation.value

    def _save(self, state: State) -> None:
        if self.checkpoint is not None and self.trainer.crew.first:
            save(self.checkpoint, state, self.identity)

    def _rate(self, epoch: int, factor: float, share: float = 0.0) -> float:
        updates = updates_in(self.steps, self.trainer.settings)
        total = self.epochs * updates
        return factor * rate_at(max(epoch * updates, share * total), total, self.trainer.settings)

    def _stale(self, progress: Progress) -> bool:
        patience = self.trainer.settings.patience
        return patience is not None and progress.stale >= patience
