"""The machine and runtime that a network is made for, as data."""

from typing import Annotated

from pydantic import Field

from trimtab.plan.record import Record
from trimtab.plan.scheme import Scheme


class Target(Record):
    """What a runtime can execute, and the conditions under which latency is measured.

    `schemes_by_operator` maps an operator family (`convolution`, `linear`, `add`, `mean`, `concatenation`, …) to the
    schemes that run as integer kernels there; those with dynamic ranges in families of their own (`dynamic_linear`, …).
    `channel_multiple` is the width step that the kernels are built for. `stored_bits` are the widths in which a file
    can hold the codes of weights, whatever the kernels read.
    """

    name: str
    suffix: str
    schemes_by_operator: dict[str, tuple[Scheme, ...]]
    stored_bits: tuple[int, ...] = (8,)
    channel_multiple: Annotated[int, Field(ge=1)] = 1
    threads: Annotated[int, Field(ge=1)] = 1
    batch: Annotated[int, Field(ge=1)] = 1
