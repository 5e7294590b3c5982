"""A penalty in the loss that makes a network sparse while it trains."""

from typing import Annotated

from pydantic import Field

from trimtab.plan.record import Record


class Penalty(Record):
    """`strength` · penalty is added to the loss; after every epoch it is multiplied by `growth` until it works.

    It works when the share `until` of what the penalty acts on (weights, units) is negligible: that far the strength
    grows. Where a tenth less is left than may be, it falls again by the same factor. `kind` is a name of the registry
    of penalties.
    """

    kind: str
    strength: Annotated[float, Field(gt=0)] = 1e-5
    growth: Annotated[float, Field(ge=1)] = 1.5
    until: Annotated[float, Field(gt=0, lt=1)] = 0.5
