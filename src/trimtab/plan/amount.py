"""How much is removed: a fraction, a count, or everything below a score."""

from typing import Annotated, Literal

from pydantic import Field

from trimtab.plan.record import Record

Share = Annotated[float, Field(gt=0, lt=1)]


class Fraction(Record):
    """This share is removed, of the pieces themselves (weights, kernels, channels, …) or of the network's MACs."""

    kind: Literal["fraction"] = "fraction"
    removed: Share
    of: Literal["pieces", "macs"] = "pieces"


class Count(Record):
    """So many pieces are removed."""

    kind: Literal["count"] = "count"
    removed: Annotated[int, Field(ge=1)]


class Quantile(Record):
    """Pieces whose score lies below this quantile of the scores are removed: 0.9 is the 90th percentile."""

    kind: Literal["quantile"] = "quantile"
    below: Share


class Threshold(Record):
    """Pieces whose score lies below this value are removed."""

    kind: Literal["threshold"] = "threshold"
    below: float


Amount = Annotated[Fraction | Count | Quantile | Threshold, Field(discriminator="kind")]
