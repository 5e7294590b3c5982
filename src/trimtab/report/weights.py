"""Weights as pictures: a histogram of each layer, and the filters of the first convolution."""

import torch
from torch import Tensor

from trimtab.graph import Network
from trimtab.measure.distance import weights_of
from trimtab.report.behaviour.pictures import picture
from trimtab.report.details import Histogram, Pictures

_BINS, _LEVELS, _LAYERS, _FILTERS = 61, 64, 200, 64


def histograms(before: Network, after: Network) -> tuple[Histogram, ...]:
    """Of every layer that is still there, at most 200; both halves in the same bins.

    `after` is a network of plain weights (`Network.dequantize`).
    """
    theirs = weights_of(after)
    return tuple(
        _histogram(name, weight, theirs[name])
        for name, weight in list(weights_of(before).items())[:_LAYERS]
        if name in theirs
    )


def filters(before: Network, after: Network) -> Pictures | None:
    """Of the first layer whose filters are images of one or three channels, at most 64; None where there is none."""
    theirs = weights_of(after)
    for name, weight in weights_of(before).items():
        if name in theirs and weight.dim() == 4 and weight.shape[1] in (1, 3) and min(weight.shape[2:]) >= 3:
            shown = [tuple(picture(part) for part in of[:_FILTERS]) for of in (weight, theirs[name])]
            return Pictures(layer=name, before=shown[0], after=shown[1])
    return None


def _histogram(name: str, before: Tensor, after: Tensor) -> Histogram:
    most = max(float(before.abs().max()), float(after.abs().max()) if after.numel() else 0.0, 1e-12)
    width = 2 * most / _BINS
    shares = [torch.histc(of.flatten(), _BINS, -most, most).double() / max(1, of.numel()) for of in (before, after)]
    levels = after.unique()
    return Histogram(
        layer=name,
        low=-most,
        width=width,
        before=tuple(shares[0].tolist()),
        after=tuple(shares[1].tolist()),
        levels=tuple(levels.tolist()) if len(levels) <= _LEVELS else (),
    )
