"""For Hugging Face: `Trainer(…, callbacks=[PruningCallback()])`, where the model is or holds what `prepare` made."""

from typing import Any

from trimtab.errors import MissingPackageError
from trimtab.integrations import prepared_in

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError as error:
    raise MissingPackageError(
        "trimtab.integrations.huggingface needs transformers: pip install 'trimtab[huggingface]'"
    ) from error


class PruningCallback(TrainerCallback):
    """Begins the schedule with the trainer's number of optimizer steps, and calls `step()` after every one of them.

    A checkpoint of the trainer holds the masks, and `train(resume_from_checkpoint=…)` goes on exactly. After `train`,
    `finalize` gives the network. Set `remove_unused_columns=False`: a captured graph names no columns.
    Raises: ConfigError for a model without one Prepared.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        prepared_in(kwargs["model"]).begin(state.max_steps)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        prepared_in(kwargs["model"]).step()
