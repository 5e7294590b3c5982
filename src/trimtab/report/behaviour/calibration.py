"""Whether the network still knows how sure it may be."""

import torch
from torch import Tensor

from trimtab.plan.behaviour import Aspect, Check
from trimtab.report.behaviour.compared import Compared, LeftOutError

_BINS, _ENOUGH = 15, 100


def calibration(compared: Compared, at_most: float) -> Check:
    """By how much the expected calibration error grows, in 0..1."""
    before, after = compared.labelled
    if len(before.labels) < _ENOUGH:
        raise LeftOutError(
            f"{len(before.labels)} labels are too few to say how often a network is right; {_ENOUGH} are needed"
        )
    errors = [calibration_error(each.confidence, each.right) for each in (before, after)]
    grown = errors[1] - errors[0]
    sure = [float(each.confidence.mean()) for each in (before, after)]
    right = [float(each.right.double().mean()) for each in (before, after)]
    too = "sure" if sure[1] > right[1] else "unsure"
    verdict = (
        f"as well calibrated as before: the error goes from {errors[0]:.3f} to {errors[1]:.3f}"
        if grown <= at_most
        else f"it is too {too} of itself: {100 * sure[1]:.1f} % sure on average and {100 * right[1]:.1f} % right; "
        "divide its outputs by a temperature that is fitted on val, or distil with more weight on the teacher"
    )
    aspects = (
        Aspect(label="expected calibration error", before=errors[0], after=errors[1]),
        Aspect(label="mean confidence", before=sure[0], after=sure[1]),
        Aspect(label="share that is right", before=right[0], after=right[1]),
    )
    return Check(name="calibration", measured=max(0.0, grown), at_most=at_most, verdict=verdict, aspects=aspects)


def calibration_error(confidence: Tensor, right: Tensor) -> float:
    """Mean |share that is right − mean confidence| over 15 equal bins of the confidence, weighted by their labels.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", eq. 3.
    """
    bins = (confidence * _BINS).long().clamp(max=_BINS - 1)
    off = torch.zeros(_BINS, dtype=torch.float64).index_add_(0, bins, right.double() - confidence.double())
    return float(off.abs().sum()) / len(confidence)
