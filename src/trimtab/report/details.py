"""What the page shows beside the Result: layers, weights, sensitivity, rows that changed, and the command."""

from typing import Literal

from trimtab.plan import Record
from trimtab.report.behaviour import Changed


class LayerRow(Record):
    """One layer as it came out. Bits are 32 where a side stays in float; bytes are its weight's share of the file.

    `zeros` is the share (0..1) of exact zeros in what is left of the weight.
    """

    name: str
    operator: str
    width_before: int
    width_after: int
    weight_bits: int
    activation_bits: int
    bytes_before: int = 0
    bytes: int
    kernel: Literal["integer", "float"]
    zeros: float = 0.0


class Histogram(Record):
    """A layer's weights by value: shares (0..1) of the original's and the compressed one's, in bins of one width.

    `low` is where the first bin begins. `levels` are the values that the compressed weights take, where they are few.
    """

    layer: str
    low: float
    width: float
    before: tuple[float, ...]
    after: tuple[float, ...]
    levels: tuple[float, ...] = ()


class Sensitivity(Record):
    """What one choice for one unit (a group, a layer, a branch) alone does to the outputs: loss by choice.

    The loss is the mean squared difference over the variance of the outputs.
    """

    unit: str
    losses: dict[str, float]


class Pictures(Record):
    """What belongs to a layer as pictures (`data:` addresses), before and after: filters, or heads of attention."""

    layer: str
    before: tuple[str, ...]
    after: tuple[str, ...]


class ReportDetails(Record):
    """All of it. Only the layers and the command are always there."""

    layers: tuple[LayerRow, ...]
    command: str
    changed: tuple[Changed, ...] = ()
    histograms: tuple[Histogram, ...] = ()
    sensitivity: tuple[Sensitivity, ...] = ()
    filters: Pictures | None = None
    attention: tuple[Pictures, ...] = ()
