"""For Lightning: `Trainer(callbacks=[PruningCallback()])`, where the LightningModule holds what `prepare` made."""

from typing import Any

from trimtab.errors import ConfigError, MissingPackageError
from trimtab.integrations import prepared_in

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise MissingPackageError(
        "trimtab.integrations.lightning needs lightning: pip install 'trimtab[lightning]'"
    ) from error


class PruningCallback(Callback):
    """Begins the schedule with the trainer's number of optimizer steps, and calls `step()` after every one of them.

    A checkpoint of the trainer holds the masks, and `fit(ckpt_path=…)` goes on exactly. After `fit`, `finalize` gives
    the network. Raises: ConfigError for a module without one Prepared, for manual optimization, and for a training
    without an end.
    """

    def __init__(self) -> None:
        self._steps = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not pl_module.automatic_optimization:
            raise ConfigError(
                f"{type(pl_module).__name__}: the callback cannot see the steps of manual optimization; "
                "leave it out and call step() in training_step, after optimizer.step()"
            )
        steps = trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise ConfigError("the trainer has no end: give it max_steps or max_epochs")
        prepared_in(pl_module).begin(int(steps))
        self._steps = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step > self._steps:  # with accumulated gradients not after every batch
            prepared_in(pl_module).step()
            self._steps = trainer.global_step
