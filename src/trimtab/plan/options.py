"""What decides a run's result besides its task, target, seed and budget."""

from typing import Annotated, Literal

from pydantic import Field

from trimtab.plan.record import Record

Order = Literal["joint", "prune-then-quantize", "quantize-then-prune", "quantize-only", "prune-only"]
"""Whether pruning and quantization are decided and trained at once, one after the other, or one of them alone."""


class Options(Record):
    """What a user may set, each with a default.

    `epochs` of one round of recovery; None: about 2500 steps, at most 30 epochs. At most so many `rounds`; None: as
    many as `minutes` allow, or three. After `minutes` of the whole run, training stops and no further round begins; the
    rest is finished. It is no part of a run's identity: the same run may be continued with more time. A run that it
    cuts short is the only one whose result depends on the clock.
    Latency and memory are those of `batch` rows at a time on so many `threads`.
    `refine` names what draws other losses, with which up to `trials` more plans are found and judged.
    With `folds` that is done on so many folds of the rows of train and val, for data of which val has too few.
    `latency_table` is the path of a profile.json whose latency holds in place of what this machine would measure; of a
    run's identity its content is a part, not its path: in a job's options stands the content's sha256.
    With a `confidence` a limit on the drop is kept by so many of the resamples of the rows, not by the estimate alone.
    """

    recover: bool = True
    epochs: Annotated[int, Field(ge=1)] | None = None
    minutes: Annotated[float, Field(gt=0)] | None = None
    rounds: Annotated[int, Field(ge=1)] | None = None
    criterion: str = "taylor"
    order: Order = "joint"
    batch: Annotated[int, Field(ge=1)] = 1
    threads: Annotated[int, Field(ge=1)] = 1
    latency_table: str | None = None
    confidence: Annotated[float, Field(gt=0.5, lt=1)] | None = None
    calibration_rows: Annotated[int, Field(ge=1)] = 1024
    refine: Literal["none", "tpe", "grid", "random", "evolutionary"] = "none"
    trials: Annotated[int, Field(ge=1)] = 16
    folds: Annotated[int, Field(ge=2)] | None = None
