"""What can be set about the training loop. Every default says why."""

from typing import Annotated, Literal

from pydantic import Field

from trimtab.plan import Record


class Settings(Record):
    """Optimizer, schedule, distillation and precision of `recover`.

    `learning_rate` is the peak; warm-up rises to it over the first `warmup` (fraction of all steps), then a cosine
    falls to zero. None: 0.001 for AdamW, 0.02 for SGD.
    `weight_decay` is for weights of two or more dimensions; norms, biases and quantization scales have none.
    `scale_rate` multiplies the learning rate of quantization scales: AdamW moves every parameter by about its rate,
    and a scale is about a hundred times smaller than 1.
    `clip_norm` bounds the L2 norm of the gradient, of weights and of scales separately.
    `distillation` is α in (1 − α)·task loss + α·distillation loss, where there is a teacher; 1 uses no labels.
    `freeze_norm_at` is the fraction of all steps after which BatchNorm normalizes by its running statistics (and
    dropout is off), so that training ends on the very function that is deployed. 0 suits networks that are only
    quantized: there the noise of batch statistics is far above the damage. Without BatchNorm it does nothing.
    `precision` "auto" is bfloat16 autocast where the processor multiplies it natively and the network is large enough
    to gain (a rule, not a timing, so that results repeat).
    `channels_last` lays 4-D inputs and weights out in that order: the same values, faster convolutions.
    """

    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    scale_rate: Annotated[float, Field(gt=0)] = 0.01
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    distillation: Annotated[float, Field(ge=0, le=1)] = 0.9
    temperature: Annotated[float, Field(gt=0)] = 4.0
    freeze_norm_at: Annotated[float, Field(ge=0, le=1)] = 0.75
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    channels_last: bool = True

    @property
    def peak_rate(self) -> float:
        """The learning rate at the end of the warm-up."""
        if self.learning_rate is not None:
            return self.learning_rate
        return {"adamw": 1e-3, "sgd": 2e-2}[self.optimizer]
