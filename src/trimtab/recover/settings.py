"""What can be set about the training loop. Every default says why."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from trimtab.plan import Penalty, Record


class Imitation(Record):
    """Inner activations of the teacher that the student imitates; `weight` · distance is added to the loss.

    `kind` "features" compares the values themselves, "attention" only where in the picture or sequence they are large.
    `places` are pairs (student's, teacher's): names of layers or graph nodes of a Network, or of a module's submodules.
    "auto" takes every residual sum that both graphs have, which needs a teacher of the student's own architecture.
    The distance is a mean over the places. Where widths differ, "features" learns a projection to the teacher's.
    Sources: Romero et al. 2015, "FitNets", eq. 3; Zagoruyko & Komodakis 2017, "Paying More Attention to Attention",
    eq. 2.
    """

    kind: Literal["features", "attention"] = "features"
    places: Literal["auto"] | tuple[tuple[str, str], ...] = "auto"
    weight: Annotated[float, Field(gt=0)] = 1.0


class Settings(Record):
    """Optimizer, schedule, distillation and precision of `recover`.

    `learning_rate` is the peak. None: 0.001 for AdamW, 0.02 for SGD. `rate` says how it moves: "cosine" rises in a line
    over the first `warmup` (fraction of all steps) and falls as a cosine to zero; "one_cycle" rises as a cosine from a
    25th of the peak and falls to zero, with momentum 0.1 lower at the peak. Cosine is the safe one: a trained network
    wants no long rise. None for `warmup`: 0.05, or 0.3 of one cycle.
    `momentum` is SGD's, and AdamW's β₁.
    `weight_decay` is for weights of two or more dimensions; norms, biases and quantization scales have none.
    `scale_rate` multiplies the learning rate of quantization scales: AdamW moves every parameter by about its rate,
    and a scale is about a hundred times smaller than 1.
    `clip_norm` bounds the L2 norm of the gradient, of weights and of scales separately.
    `accumulate` batches make one update, weighted by their rows, as if they were one batch (to rounding, and but for
    batch norm, which sees each alone); the last update of an epoch takes what is left. 1 while memory suffices.
    `ema` is the decay of an exponential moving average of the weights; the average is then what is judged and
    returned. None: a rate that falls to zero has averaged already. 0.99 to 0.999 help where it cannot, as with a
    `patience` that ends training early.
    `patience` ends training after so many epochs without a better metric on val. None: the rate of all epochs was
    planned, and its low end is the best part of it.
    `penalty` is added to the loss, to make weights small that are removed later.
    `distillation` is α in (1 − α)·task loss + α·distillation loss, where there is a teacher; 1 uses no labels.
    `mean_teacher` takes the moving average itself as the teacher, which needs `ema` and no other teacher.
    `imitate` adds inner activations. Empty: outputs are enough where most of the network is left.
    `freeze_norm_at` is the fraction of all steps after which BatchNorm normalizes by its running statistics (and
    dropout is off), so that training ends on the very function that is deployed. 0 suits networks that are only
    quantized: there the noise of batch statistics is far above the damage. Without BatchNorm it does nothing.
    `freeze_ranges_at` is the fraction of all steps after which quantization scales (and offsets) stay, so that the last
    steps train weights for the very grid that is deployed. 0.9: by then the rate has nearly stopped them.
    `reestimate` is the number of training batches on which BatchNorm is measured anew at the end, kept if val is not
    worse for it. 0: with `freeze_norm_at` below 1 training ended on the running statistics and has adapted to them.
    `precision` "auto" is bfloat16 autocast where the processor multiplies it natively and the network is large enough
    to gain (a rule, not a timing, so that results repeat).
    `channels_last` lays 4-D inputs and weights out in that order: the same values, faster convolutions.
    """

    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    rate: Literal["cosine", "one_cycle"] = "cosine"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    scale_rate: Annotated[float, Field(gt=0)] = 0.01
    warmup: Annotated[float, Field(ge=0, lt=1)] | None = None
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    accumulate: Annotated[int, Field(ge=1)] = 1
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    patience: Annotated[int, Field(ge=1)] | None = None
    penalty: Penalty | None = None
    distillation: Annotated[float, Field(ge=0, le=1)] = 0.9
    temperature: Annotated[float, Field(gt=0)] = 4.0
    mean_teacher: bool = False
    imitate: tuple[Imitation, ...] = ()
    freeze_norm_at: Annotated[float, Field(ge=0, le=1)] = 0.75
    freeze_ranges_at: Annotated[float, Field(ge=0, le=1)] = 0.9
    reestimate: Annotated[int, Field(ge=0)] = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    channels_last: bool = True

    @model_validator(mode="after")
    def _a_mean_teacher_has_a_mean(self) -> "Settings":
        if self.mean_teacher and self.ema is None:
            raise ValueError("mean_teacher needs a moving average; set ema, such as ema=0.999")
        return self

    @property
    def warm(self) -> float:
        """The fraction of all steps in which the learning rate rises."""
        if self.warmup is not None:
            return self.warmup
        return {"cosine": 0.05, "one_cycle": 0.3}[self.rate]

    @property
    def peak_rate(self) -> float:
        """The learning rate at the end of the warm-up."""
        if self.learning_rate is not None:
            return self.learning_rate
        return {"adamw": 1e-3, "sgd": 2e-2}[self.optimizer]
