"""The end of a recovery: from the best weights to the network that is returned."""

from dataclasses import dataclass
from itertools import islice

import torch

from trimtab.errors import ConfigError, NumericsError
from trimtab.graph import Network
from trimtab.measure.metric import evaluate, higher_is_better
from trimtab.prepare import finalize
from trimtab.recover.batchnorm import has_batch_norm, reestimate_batchnorm
from trimtab.recover.checkpoint import Entry, State
from trimtab.recover.epoch import Trainer
from trimtab.recover.precision import set_layout
from trimtab.recover.seeding import seeded
from trimtab.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """The network that was best on the validation split (in eval mode), its metric, and how it went.

    `history` begins with the network as it came (epoch 0), which is what is returned if no epoch was better.
    """

    network: Network
    best_metric: float
    epochs_done: int
    history: tuple[Entry, ...]


def deliver(trainer: Trainer, task: Task, state: State, *, seed: int) -> Recovered:
    """The best network, with batch norm re-estimated where that is asked for and not worse, and finalized.

    Raises: ConfigError when training ended before the schedule of what was prepared.
    """
    progress, network, history = state.progress, trainer.network, list(state.progress.history)
    metric = progress.best_metric
    if metric is None:
        raise ConfigError(
            f"recover: training ended after epoch {progress.epochs_done}, before its schedule: {history[-1].note}; "
            "train for longer (a checkpoint goes on where it stopped), or let the schedule stop earlier"
        )
    network.load_state_dict(dict(state.part("best")))
    if trainer.pressure is not None:
        trainer.pressure.finish()
    set_layout(network, torch.contiguous_format)
    network.eval()
    if trainer.settings.reestimate and has_batch_norm(network):
        entry = _reestimate(network, task, metric, batches=trainer.settings.reestimate, seed=seed)
        history.append(entry.model_copy(update={"epoch": progress.epochs_done}))
        metric = metric if entry.metric is None else entry.metric
    if trainer.prepared is not None and trainer.prepared.pruner is not None:
        trainer.prepared.pruner.restore(state.part("best_pruner"))
        network = finalize(trainer.prepared)
        if trainer.prepared.kept:  # most cuts are exact, but not across a norm over the cut channels
            metric = evaluate(network, task.val, task.metric).value
            history.append(Entry(epoch=progress.epochs_done, metric=metric, learning_rate=0.0, note="after the cut"))
    return Recovered(network=network, best_metric=metric, epochs_done=progress.epochs_done, history=tuple(history))


def _reestimate(network: Network, task: Task, before: float, *, batches: int, seed: int) -> Entry:
    """Measure batch norm anew, in place, if the metric is not worse for it. The entry has a metric where it is kept."""
    try:
        with seeded(seed, 0, task.train, task.val):
            adjusted = reestimate_batchnorm(network, (inputs for inputs, _ in islice(task.train, batches)))
            metric = evaluate(adjusted, task.val, task.metric).value
    except NumericsError as error:
        return Entry(epoch=0, learning_rate=0.0, note=f"batch norm not re-estimated: {error}")
    worse = metric < before if higher_is_better(task.metric) else metric > before
    if worse:
        return Entry(epoch=0, learning_rate=0.0, note=f"batch norm not re-estimated: the metric would be {metric:.4f}")
    network.load_state_dict(adjusted.state_dict())
    return Entry(epoch=0, metric=metric, learning_rate=0.0, note="batch norm re-estimated")
