"""Cross-layer equalization: channels of neighbouring layers are scaled so that one grid suits all of them.

Source: Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.1.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from trimtab.graph import Network
from trimtab.graph.analysis import attribute
from trimtab.graph.layers import OPERATORS
from trimtab.graph.values import bind
from trimtab.quant.operators import norm_of, only_user

aten = torch.ops.aten

ROUNDS = 20
"""Through all pairs, at most; ends when no channel is scaled by more than a thousandth."""

_CHANNELWISE: set[object] = {
    aten.relu.default,
    aten.relu_.default,
    aten.leaky_relu.default,
    aten.leaky_relu_.default,
    aten.max_pool1d.default,
    aten.max_pool2d.default,
    aten.avg_pool1d.default,
    aten.avg_pool2d.default,
    aten.adaptive_avg_pool1d.default,
    aten.adaptive_avg_pool2d.default,
    aten.dropout.default,
    aten.dropout_.default,
}
"""Operators that scale with what they read, channel by channel, where the scale is positive."""

_FLATTENING = {aten.flatten.using_ints, aten.view.default, aten.reshape.default}


@dataclass(frozen=True)
class _Pair:
    """A layer (with its batch norm) and the one that reads its channels, and nothing else does."""

    writer: Node
    norm: Node | None
    reader: Node


def equalize(network: Network) -> Network:
    """A copy that computes the same, with equal ranges of each channel in the layer that writes it and in its reader.

    Pairs of convolutions or linear layers take part whose only link is what scales along: ReLU, pooling, flattening. A
    clipped activation (ReLU6), a sum or a second reader ends a chain. Do it before `apply`; it helps weights with one
    scale a tensor, and activations. Weights that are read twice or already rounded stay.
    """
    result = network.clone().eval()
    pairs = _pairs(result)
    for _ in range(ROUNDS):
        changes = [_scale(result, pair) for pair in pairs]
        if all(change < 1e-3 for change in changes):
            break
    result.train(network.training)
    return result


def _pairs(network: Network) -> list[_Pair]:
    twice = {layer.weight for layer in network.layers if "#" in layer.name}
    single = {layer.node for layer in network.layers if layer.weight not in twice}
    found = []
    for node in network.module.graph.nodes:
        if node.name not in single or bind(node)["weight"].op != "get_attr":
            continue
        norm = norm_of(node)
        if norm is not None and any(bind(norm)[name] is None for name in ("weight", "bias")):
            continue
        reader = _reader(norm or node)
        if reader is not None and reader.name in single and bind(reader)["weight"].op == "get_attr":
            found.append(_Pair(node, norm, reader))
    return found


def _reader(value: Node) -> Node | None:
    """The layer at the end of a chain of operators that scale along with `value`."""
    while True:
        after = only_user(value, {*_CHANNELWISE, *_FLATTENING, *OPERATORS})
        if after is None or (after.target in _FLATTENING and not _flattens(after)):
            return None
        if after.target in OPERATORS:
            given = bind(after)
            return after if given["input"] is value and _fits(after) else None
        value = after


def _flattens(node: Node) -> bool:
    """Whether all dimensions but the first become one."""
    before, after = (value.meta["val"].shape for value in (node.all_input_nodes[0], node))
    return len(after) == 2 and after[0] == before[0]


def _fits(reader: Node) -> bool:
    """Whether channels are dimension 1 of what a layer reads: of a linear layer, after a flattening."""
    return OPERATORS[reader.target] == "convolution" or bind(reader)["input"].meta["val"].dim() == 2


@torch.no_grad()
def _scale(network: Network, pair: _Pair) -> float:
    """Equalize one pair; the largest change, as a logarithm."""
    first, bias = _parameter(network, pair.writer, "weight"), _parameter(network, pair.writer, "bias")
    second = _by_channel(network, pair.reader, len(first))
    gain = torch.ones(len(first), device=first.device, dtype=first.dtype)
    if pair.norm is not None:
        spread = (_parameter(network, pair.norm, "running_var") + bind(pair.norm)["eps"]).sqrt()
        gain = (_parameter(network, pair.norm, "weight") / spread).abs()
    wrote, reads = gain * first.flatten(1).abs().amax(1), second.abs().amax((1, 3)).flatten()
    factor = (wrote / reads).sqrt()
    factor = torch.where((wrote > 0) & (reads > 0) & factor.isfinite(), factor, 1.0)
    second.mul_(factor.view(len(second), 1, -1, 1))
    scaled: list[Any] = [first, bias]
    if pair.norm is not None:
        scaled = [_parameter(network, pair.norm, name) for name in ("weight", "bias")]
    for values in scaled:
        if values is not None:
            values.div_(factor.view(-1, *(1,) * (values.dim() - 1)))
    return float(factor.log().abs().max())


def _by_channel(network: Network, reader: Node, channels: int) -> Tensor:
    """A view of the reader's weight as [groups, outputs of a group, channels of a group, weights of each]."""
    weight: Tensor = _parameter(network, reader, "weight")
    groups = int(bind(reader).get("groups", 1))
    return weight.view(groups, len(weight) // groups, channels // groups, -1)


def _parameter(network: Network, node: Node, name: str) -> Any:
    given = bind(node)[name]
    return None if given is None else attribute(network.module, str(given.target)).detach()
