"""One epoch of training: the inner loop, and nothing that outlives it."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from trimtab.errors import NumericsError
from trimtab.graph import Network
from trimtab.recover.distill import distillation_loss
from trimtab.recover.optimizer import clip_gradients, cosine_rate, set_rate
from trimtab.recover.settings import Settings
from trimtab.tasks.rows import lay_out
from trimtab.tasks.task import Inputs, Loader, call

OnStep = Callable[[int, int, str], None]


class NonFiniteLossError(NumericsError):
    """The loss or its gradient is not finite, though the data are."""


class DeadlinePassed(Exception):  # noqa: N818 - a signal within recover, never seen outside
    """Time was up in the middle of an epoch."""


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """What every step needs. `dtype` is that of autocast, `layout` the memory order of 4-D tensors."""

    network: Network
    teacher: Network | None
    loss: Callable[[Any, Any], Tensor]
    optimizer: torch.optim.Optimizer
    settings: Settings
    dtype: torch.dtype
    normalizes_by_batch: bool
    layout: torch.memory_format

    def forward(self, network: Network, inputs: Inputs) -> Any:
        """Outputs in float32, computed under autocast to `dtype`."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            outputs = call(network, inputs)
        return pytree.tree_map_only(Tensor, lambda x: x.float() if x.dtype == torch.bfloat16 else x, outputs)

    def set_mode(self, progress: float) -> None:
        """Training mode, until BatchNorm is to be frozen. `progress`: fraction of all steps that are done."""
        training = progress < self.settings.freeze_norm_at or not self.normalizes_by_batch
        if self.network.training != training:
            self.network.train(training)

    def objective(self, inputs: Inputs, target: Any) -> Tensor:
        """(1 − α)·task loss + α·distillation loss; α is 0 without a teacher. A side with factor 0 is not computed."""
        inputs = lay_out(inputs, self.layout)
        outputs = self.forward(self.network, inputs)
        alpha = self.settings.distillation if self.teacher is not None else 0.0
        if self.teacher is None or alpha == 0:
            return self.loss(outputs, target)
        with torch.no_grad():
            reference = self.forward(self.teacher, inputs)
        distilled = distillation_loss(outputs, reference, target, temperature=self.settings.temperature)
        return distilled if alpha == 1 else (1 - alpha) * self.loss(outputs, target) + alpha * distilled

    def step(self, inputs: Inputs, target: Any, rate: float) -> float:
        """One update. Returns: the loss before it. Raises: NonFiniteLossError, with the weights unchanged."""
        loss = self.objective(inputs, target)
        loss.backward()
        norm = clip_gradients(self.optimizer, self.settings.clip_norm)
        value = loss.item()
        if not (math.isfinite(value) and math.isfinite(norm.item())):
            self.optimizer.zero_grad()
            what = f"loss is {value}" if not math.isfinite(value) else "gradient is not finite"
            raise NonFiniteLossError(f"the {what}")
        set_rate(self.optimizer, rate)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return value


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Where an epoch (from 0) lies in the whole: `steps` an epoch, `total` in all; `text` is shown with progress."""

    epoch: int
    steps: int
    total: int
    rate_factor: float
    deadline: float | None
    on_step: OnStep | None
    text: str


def train_epoch(trainer: Trainer, loader: Loader, pace: Pace) -> float:
    """Train on every batch. Returns: the mean loss.

    Raises: DeadlinePassed at the end of a batch; NonFiniteLossError; NumericsError when the data are not finite.
    """
    done, summed = pace.epoch * pace.steps, 0.0
    count = 0
    for inputs, target in loader:
        if pace.deadline is not None and time.monotonic() >= pace.deadline:
            raise DeadlinePassed
        rate = pace.rate_factor * cosine_rate(done + count, pace.total, trainer.settings)
        trainer.set_mode((done + count) / pace.total)
        try:
            summed += trainer.step(inputs, target, rate)
        except NonFiniteLossError as error:
            where = f"recover: epoch {pace.epoch + 1}, batch {count + 1}"
            _check_data(where, inputs, target)
            raise NonFiniteLossError(f"{where}: {error}") from error
        count += 1
        if pace.on_step is not None:
            pace.on_step(min(done + count, pace.total), pace.total, f"{pace.text}, loss {summed / count:.4f}")
    return summed / max(1, count)


def _check_data(where: str, inputs: Inputs, target: Any) -> None:
    for kind, part in (("inputs", inputs), ("target", target)):
        for leaf in pytree.tree_leaves(part):
            if isinstance(leaf, Tensor) and leaf.is_floating_point() and not bool(leaf.isfinite().all()):
                raise NumericsError(f"{where}: the {kind} hold NaN or infinity; clean the data")
