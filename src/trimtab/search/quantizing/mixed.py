"""Mixed precision: the bits of every layer under an average, so that the layers' own losses sum to the least."""

from collections.abc import Mapping, Sequence
from math import fsum

import numpy as np

from trimtab.errors import ConfigError
from trimtab.search.allocate import Cost, allocate, whole

_ROUNDING = 1e-9

Losses = Mapping[str, Mapping[int, float]]
"""By layer what it costs to be stored in so many bits."""


def choose_bits(losses: Losses, entries: Mapping[str, int], average: float) -> dict[str, int]:
    """One of each layer's bits: the least sum of losses with at most `average` bits a weight, over all layers.

    `entries` is the number of weights of each layer. Solved as an integer program, to a relative gap of 0.1 %. Bits
    that are then left go to layers that lose no more by them, such as those whose loss is zero at any width.
    Source: Dong et al. 2020, "HAWQ-V2: Hessian Aware trace-Weighted Quantization of Neural Networks" (there the same
    sum, minimized by walking the Pareto frontier).
    Raises: ConfigError when the fewest bits of all layers are more than that on average.
    """
    total = sum(entries[name] for name in losses)
    least = fsum(min(of_layer) * entries[name] for name, of_layer in losses.items()) / total
    if least > average + _ROUNDING:
        raise ConfigError(
            f"quantize: an average of {average:g} bits cannot be reached: with the fewest bits in every layer it is "
            f"{least:.3f}; raise average, offer fewer bits in choices, or lower first_and_last"
        )
    objective, size = Cost(), Cost()
    options: list[Sequence[int]] = []
    for i, (name, of_layer) in enumerate(losses.items()):
        options.append(sorted(of_layer))
        face = whole(i, len(options[i]))
        objective.add((face,), np.array([of_layer[bits] for bits in options[i]]))
        size.add((face,), np.array(options[i]) * float(entries[name]) / total)
    chosen = allocate(objective, [(size, average + _ROUNDING)], [len(bits) for bits in options])
    assert chosen is not None  # the least was within the bound
    fewest = {name: options[i][chosen[i]] for i, name in enumerate(losses)}
    return _filled(fewest, losses, entries, (average + _ROUNDING) * total)


def _filled(chosen: dict[str, int], losses: Losses, entries: Mapping[str, int], most: float) -> dict[str, int]:
    """The most bits, layer by layer, that cost no loss and keep the sum over all weights at `most`."""
    filled = dict(chosen)
    for name, of_layer in losses.items():
        others = fsum(filled[other] * entries[other] for other in filled if other != name)
        filled[name] = max(
            bits
            for bits, loss in of_layer.items()
            if bits == chosen[name] or (loss <= of_layer[chosen[name]] and others + bits * entries[name] <= most)
        )
    return filled
