"""One epoch of training: the inner loop, and nothing that outlives it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from trimtab.errors import ConfigError, NumericsError
from trimtab.graph import Network
from trimtab.prepare import Prepared
from trimtab.recover.average import Average
from trimtab.recover.clock import Clock
from trimtab.recover.distill import distillation_loss
from trimtab.recover.distributed import Crew
from trimtab.recover.imitation import Imitator
from trimtab.recover.optimizer import clip_gradients, momentum_at, rate_at, set_pace
from trimtab.recover.pressure import Pressure
from trimtab.recover.settings import Settings
from trimtab.tasks.rows import count, lay_out
from trimtab.tasks.task import Inputs, Loader, call

OnStep = Callable[[int, int, str], None]


class NonFiniteLossError(NumericsError):
    """The loss or its gradient is not finite, though the data are."""


class DeadlinePassed(Exception):  # noqa: N818 - a signal within recover, never seen outside
    """Time was up in the middle of an epoch."""


@dataclass(kw_only=True)
class Trainer:
    """What every step needs. `dtype` is that of autocast, `layout` the memory order of 4-D tensors.

    `prepared` holds the network, where its plan is carried out while it trains. `classes` are the dimensions of the
    outputs that are classes, where no target tells them.
    """

    network: Network
    loss: Callable[[Any, Any], Tensor]
    optimizer: torch.optim.Optimizer
    settings: Settings
    dtype: torch.dtype
    normalizes_by_batch: bool
    layout: torch.memory_format
    crew: Crew
    teacher: Callable[..., Any] | None = None
    classes: tuple[int | None, ...] | None = None
    prepared: Prepared | None = None
    pressure: Pressure | None = None
    average: Average | None = None
    imitators: tuple[Imitator, ...] = ()
    rows_pending: int = 0
    ranges_frozen: bool = False

    def forward(self, network: Callable[..., Any], inputs: Inputs) -> Any:
        """Outputs in float32, computed under autocast to `dtype`."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            outputs = call(network, inputs)
        return pytree.tree_map_only(Tensor, lambda x: x.float() if x.dtype == torch.bfloat16 else x, outputs)

    def set_mode(self, progress: float) -> None:
        """Training mode, until BatchNorm and ranges are to be frozen. `progress`: fraction of all steps done."""
        self.ranges_frozen = progress >= self.settings.freeze_ranges_at
        training = progress < self.settings.freeze_norm_at or not self.normalizes_by_batch
        if self.network.training != training:
            self.network.train(training)

    def objective(self, inputs: Inputs, target: Any) -> Tensor:
        """(1 − α)·task loss + α·distillation loss + what is imitated + penalty; α is 0 without a teacher.

        A side with factor 0 is not computed. Raises: ConfigError for a target that is needed and missing.
        """
        inputs = lay_out(inputs, self.layout)
        outputs = self.forward(self.network, inputs)
        loss = self._fit(inputs, outputs, target)
        return loss if self.pressure is None else loss + self.pressure()

    def _fit(self, inputs: Inputs, outputs: Any, target: Any) -> Tensor:
        alpha = self.settings.distillation if self.teacher is not None else 0.0
        if target is None and alpha < 1:
            raise ConfigError(
                f"recover: a training batch has no target (None), and the task's loss has the share {1 - alpha:g}; "
                "set distillation=1 and give a teacher, or give targets"
            )
        if self.teacher is None or (alpha == 0 and not self.imitators):
            return self.loss(outputs, target)
        with torch.no_grad():
            reference = self.forward(self.teacher, inputs)
        terms = [(1 - alpha) * self.loss(outputs, target)] if alpha < 1 else []
        if alpha > 0:
            distilled = distillation_loss(
                outputs,
                reference,
                target,
                temperature=self.settings.temperature,
                classes=self.classes,
                variance=self.crew.variance,
            )
            terms.append(alpha * distilled)
        terms += [imitator(self.crew.variance) for imitator in self.imitators]
        return reduce(torch.add, terms)

    def step(self, inputs: Inputs, target: Any, rate: float, momentum: float, due: bool) -> float:
        """The gradient of one batch, and an update where one is `due`. Returns: the loss before it.

        Raises: NonFiniteLossError, with the weights unchanged.
        """
        rows = count(inputs) if self.settings.accumulate > 1 else 1
        with self.crew.share(inputs, target) as part:
            loss = self.objective(part.inputs, part.target)
            (loss * (part.share * rows)).backward()
        self.rows_pending += rows
        value = self.crew.total(part.share * loss.item())
        if not math.isfinite(value):
            self.forget_gradients()
            raise NonFiniteLossError(f"the loss is {value}")
        if due:
            self._update(rate, momentum)
        return value

    def _update(self, rate: float, momentum: float) -> None:
        self.crew.sum_gradients(self.trained())
        if self.rows_pending > 1:
            torch._foreach_div_([p.grad for p in self.trained() if p.grad is not None], float(self.rows_pending))
        if not math.isfinite(clip_gradients(self.optimizer, self.settings.clip_norm).item()):
            self.forget_gradients()
            raise NonFiniteLossError("the gradient is not finite")
        set_pace(self.optimizer, rate, momentum, ranges_frozen=self.ranges_frozen)
        self.optimizer.step()
        if self.prepared is not None:
            self.prepared.step()
        if self.average is not None:
            self.average.update(self.prepared.pruner.masks if self.prepared and self.prepared.pruner else {})
        self.forget_gradients()

    def trained(self) -> list[nn.Parameter]:
        """All parameters that the optimizer moves."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def forget_gradients(self) -> None:
        """Begin a new update."""
        self.optimizer.zero_grad()
        self.rows_pending = 0

    @property
    def judged(self) -> Network:
        """The network that is evaluated and returned."""
        return self.network if self.average is None else self.average.network


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Where an epoch (from 0) lies in the whole: `steps` are batches an epoch, `text` is shown with progress.

    The schedule is where the epochs are, or, where they are late, where the `clock` says that it should be.
    """

    epoch: int
    epochs: int
    steps: int
    rate_factor: float
    clock: Clock
    on_step: OnStep | None
    text: str


def train_epoch(trainer: Trainer, loader: Loader, pace: Pace) -> float:
    """Train on every batch. Returns: the mean loss.

    Raises: DeadlinePassed at the end of a batch; NonFiniteLossError; NumericsError when the data are not finite.
    """
    settings, summed, count = trainer.settings, 0.0, 0
    done, total = pace.epoch * pace.steps, pace.epochs * pace.steps
    updates = updates_in(pace.steps, settings)
    trainer.forget_gradients()
    for inputs, target in trainer.crew.batches(loader):
        share = pace.clock.due((done + count) / total)
        if share is None:
            raise DeadlinePassed
        step = max(pace.epoch * updates + count // settings.accumulate, share * pace.epochs * updates)
        rate = pace.rate_factor * rate_at(step, pace.epochs * updates, settings)
        momentum = momentum_at(step, pace.epochs * updates, settings)
        trainer.set_mode(max((done + count) / total, share))
        due = (count + 1) % settings.accumulate == 0 or count + 1 == pace.steps
        try:
            summed += trainer.step(inputs, target, rate, momentum, due)
        except NonFiniteLossError as error:
            where = f"recover: epoch {pace.epoch + 1}, batch {count + 1}"
            _check_data(where, inputs, target)
            raise NonFiniteLossError(f"{where}: {error}") from error
        count += 1
        if pace.on_step is not None:
            come = max(min(done + count, total), int(share * total))
            pace.on_step(come, total, f"{pace.text}, loss {summed / count:.4f}")
    return summed / max(1, count)


def updates_in(steps: int, settings: Settings) -> int:
    """Optimizer steps in an epoch of so many batches: the last takes what is left."""
    return math.ceil(steps / settings.accumulate)


def _check_data(where: str, inputs: Inputs, target: Any) -> None:
    for kind, part in (("inputs", inputs), ("target", target)):
        for leaf in pytree.tree_leaves(part):
            if isinstance(leaf, Tensor) and leaf.is_floating_point() and not bool(leaf.isfinite().all()):
                raise NumericsError(f"{where}: the {kind} hold NaN or infinity; clean the data")
