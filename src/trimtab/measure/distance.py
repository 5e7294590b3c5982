"""How far one network is from another: what it puts out, and what its weights are."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from trimtab.errors import NumericsError, TaskError
from trimtab.graph import Network
from trimtab.plan import Record
from trimtab.tasks.rows import lay_out
from trimtab.tasks.switches import evaluating
from trimtab.tasks.task import Inputs, call


class Distance(Record):
    """`divergence` of the outputs, and of every layer ‖weight − original‖ / ‖original‖ (None: the shapes differ).

    A layer of the original that is not there any more is not among them.
    """

    divergence: float
    weights: dict[str, float | None]

    def said(self) -> str:
        """In one line: the outputs, and the layer whose weights moved most."""
        outputs = f"outputs moved by {self.divergence:.3g} of their variance, before any training"
        errors = {name: error for name, error in self.weights.items() if error}
        if not errors:
            return outputs
        worst = max(errors, key=lambda name: errors[name])
        return f"{outputs}; weights by at most {errors[worst]:.1%} ({worst})"


def distance(network: Network, original: Network, batches: Iterable[tuple[Inputs, Any]]) -> Distance:
    """How far `network` is from the `original`, on the inputs of the batches, both in eval mode.

    A fake-quantized network counts with its rounded weights, and puts out what its rounded activations give.
    Raises: TaskError for no batches, NumericsError for outputs that are not finite.
    """
    inputs = [lay_out(batch, torch.channels_last) for batch, _ in batches]
    if not inputs:
        raise TaskError("distance: the data has no batches; give batches=[(inputs, target), …]")
    with evaluating(network), evaluating(original):
        moved = divergence(outputs_of(network, inputs), outputs_of(original, inputs))
    ours, theirs = weights_of(network.dequantize()), weights_of(original)
    return Distance(
        divergence=moved,
        weights={name: _relative(ours[name], weight) for name, weight in theirs.items() if name in ours},
    )


def divergence(outputs: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """Mean squared difference over the reference's variance, summed over outputs; 0 for equal outputs."""
    total = 0.0
    for ours, theirs in zip(outputs, reference, strict=True):
        variance = float(theirs.double().var(correction=0))
        total += float((ours.double() - theirs.double()).square().mean()) / max(variance, 1e-12)
    if total != total or total == float("inf"):
        raise NumericsError("divergence: an output is not finite; check the weights and the data")
    return total


def outputs_of(network: Network, batches: Sequence[Inputs]) -> list[Tensor]:
    """Every output tensor of the network over all batches, one row below the other."""
    with torch.no_grad():
        rows = [pytree.tree_leaves(call(network, inputs)) for inputs in batches]
    return [torch.cat(column) for column in zip(*rows, strict=True)]


def weights_of(network: Network) -> dict[str, Tensor]:
    """By layer, in float64; a shared weight once."""
    return {
        layer.name: network.module.get_parameter(layer.weight).detach().double()
        for layer in network.layers
        if "#" not in layer.name
    }


def _relative(ours: Tensor, theirs: Tensor) -> float | None:
    if ours.shape != theirs.shape:
        return None
    return float((ours - theirs).norm() / theirs.norm().clamp(min=1e-12))
