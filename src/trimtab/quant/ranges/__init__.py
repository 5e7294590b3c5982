"""Ranges: which part of the values seen a grid should cover. One file each, one registry line each."""

from trimtab.quant.ranges.contract import Range as Range
from trimtab.quant.ranges.contract import RangeEstimator as RangeEstimator
from trimtab.registry import Registry

RANGES = Registry(
    "range",
    {
        "entropy": "trimtab.quant.ranges.entropy:Entropy",
        "minmax": "trimtab.quant.ranges.minmax:MinMax",
        "moving_average": "trimtab.quant.ranges.moving_average:MovingAverage",
        "mse": "trimtab.quant.ranges.mse:MeanSquaredError",
        "percentile": "trimtab.quant.ranges.percentile:Percentile",
    },
)

_FEW_BITS = 7


def suited_to(bits: int) -> str:
    """The name of the range to calibrate a grid of so many bits with: "mse" below 8, else "minmax".

    With few levels the tail costs every value a wide step, and training does not make up for a bad start: a scale
    of few bits is near 1, and the optimizer moves it slowly. With 256 levels there is little to gain by clipping.
    """
    return "mse" if bits <= _FEW_BITS else "minmax"
