"""Where the time of a run goes, operator by operator, and what could be done about it."""

from collections.abc import Mapping, Sequence
from typing import Literal, Self

from trimtab.plan.record import Record

Kind = Literal["integer", "float", "conversion", "move", "other"]
"""Arithmetic on codes, arithmetic in float, a change of format or layout, a move of data, what is none of these."""


class OperatorTime(Record):
    """All calls of an operator in one run on one batch. `layer` is the layer of the network, or "" where it is none."""

    operator: str
    kind: Kind
    layer: str = ""
    calls: int
    milliseconds: float


class Timeline(Record):
    """One run on one batch, its operators as the runtime's own profiler sees them. Medians over runs.

    `total_ms` is the whole run without the profiler, which adds a few microseconds to each operator's time.
    """

    total_ms: float
    operators: tuple[OperatorTime, ...]

    @classmethod
    def of_calls(cls, total_ms: float, calls: Mapping[tuple[str, Kind, str], Sequence[float]]) -> Self:
        """From the milliseconds of every call, by operator, kind and layer."""
        return cls(
            total_ms=total_ms,
            operators=tuple(
                OperatorTime(operator=operator, kind=kind, layer=layer, calls=len(of), milliseconds=sum(of))
                for (operator, kind, layer), of in calls.items()
            ),
        )


class Cpu(Record):
    """The machine that executed it. `integer_dots`: its instructions for sums of int8 products; None: not known."""

    name: str
    cores: int
    integer_dots: tuple[str, ...] | None


class Finding(Record):
    """Something that costs time: what it is, and what to do about it.

    `share` of all operators' time (0..1); None where it cannot be told.
    """

    about: Literal["fallback", "conversion", "not faster", "width", "instructions", "threads"]
    says: str
    remedy: str
    share: float | None = None


class Hotspots(Record):
    """Why it is not faster. `before` is the float network; None where there is none to compare with."""

    before: Timeline | None
    after: Timeline
    cpu: Cpu
    threads: int
    findings: tuple[Finding, ...] = ()
