"""When a network becomes sparse in the course of its training. Times are shares of all steps: 0 first, 1 last."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from trimtab.plan.record import Record


def _within_training(time: float) -> float:
    if not 0 <= time <= 1:
        raise ValueError(
            f"times are shares of the whole training, 0 (before it) to 1 (its last step), got {time:g}; give a share "
            f"such as 0.6"
        )
    return time


Share = Annotated[float, AfterValidator(_within_training)]


class Static(Record):
    """Everything is removed before the first step, and stays removed."""

    kind: Literal["static"] = "static"


class Iterative(Record):
    """Cut, train, cut: `rounds` equal cuts at equal distances, the first before the first step, the last at `stop`."""

    kind: Literal["iterative"] = "iterative"
    rounds: Annotated[int, Field(ge=1)] = 4
    stop: Share = 0.6


class _Ramp(Record):
    """Sparsity rises from `start` to `stop`, updated every `every` steps, along `curve`."""

    start: Share = 0.0
    stop: Share = 0.6
    every: Annotated[int, Field(ge=1)] = 50
    curve: Literal["cubic", "linear", "cosine", "exponential"] = "cubic"

    @model_validator(mode="after")
    def _starts_before_it_stops(self) -> "_Ramp":
        if self.start >= self.stop:
            raise ValueError(f"a schedule starts before it stops, got start={self.start}, stop={self.stop}")
        return self


class Gradual(_Ramp):
    """What was removed stays removed.

    Source: Zhu & Gupta 2017, "To prune, or not to prune", eq. 1 (the cubic curve).
    """

    kind: Literal["gradual"] = "gradual"


class Dynamic(_Ramp):
    """What was removed keeps learning, and comes back when it has grown: network surgery.

    Between two thresholds, `slack` (relative) below and above the one that gives the wanted sparsity, nothing changes.
    Source: Guo, Yao & Chen 2016, "Dynamic Network Surgery for Efficient DNNs", eq. 3.
    """

    kind: Literal["dynamic"] = "dynamic"
    slack: Annotated[float, Field(ge=0, lt=1)] = 0.1


class RigL(Record):
    """Sparse from the first step; every `every` steps until `stop` the smallest weights give their places away.

    They go to the removed weights of the largest gradient. `swapped`: the share that moves at first, falling to zero
    as a cosine. Source: Evci et al. 2020, "Rigging the Lottery: Making All Tickets Winners", algorithm 1.
    """

    kind: Literal["rigl"] = "rigl"
    stop: Share = 0.75
    every: Annotated[int, Field(ge=1)] = 100
    swapped: Annotated[float, Field(gt=0, lt=1)] = 0.3


class Rewind(Record):
    """As `Iterative`, but after each cut the weights that are left return to their values at the share `to`.

    Source: Frankle et al. 2020, "Linear Mode Connectivity and the Lottery Ticket Hypothesis" (rewinding to step k).
    """

    kind: Literal["rewind"] = "rewind"
    rounds: Annotated[int, Field(ge=1)] = 3
    stop: Share = 0.6
    to: Share = 0.0

    @model_validator(mode="after")
    def _rewinds_to_what_has_been(self) -> "Rewind":
        if self.to >= self.stop / self.rounds:
            raise ValueError(f"the weights return to a time before the first cut, got to={self.to}")
        return self


Schedule = Annotated[Static | Iterative | Gradual | Dynamic | RigL | Rewind, Field(discriminator="kind")]
