"""Attention as pictures: how much each place of one row looks at each other, head by head."""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from trimtab.graph import Network
from trimtab.graph.values import bind
from trimtab.report.behaviour.pictures import picture
from trimtab.report.details import Pictures
from trimtab.stats.observe import observe
from trimtab.tasks.task import Inputs

aten = torch.ops.aten
_FUSED = {aten.scaled_dot_product_attention.default}
_SOFTMAX = {aten.softmax.int, aten._softmax.default}
_LAYERS, _HEADS = 6, 16


def attention(before: Network, after: Network, row: Inputs) -> tuple[Pictures, ...]:
    """Of the first six attentions that both networks have, for the first row of `row`; at most 16 heads of each.

    A picture has a line for each place that looks and a column for each that is looked at. An attention is the fused
    operator, or a softmax over the last of four dimensions [batch, heads, places, places].
    """
    seen = [_probabilities(network, row) for network in (before, after)]
    both = [name for name in seen[0] if name in seen[1]]
    return tuple(Pictures(layer=name, before=_heads(seen[0][name]), after=_heads(seen[1][name])) for name in both)


def _heads(probabilities: Tensor) -> tuple[str, ...]:
    return tuple(picture(head) for head in probabilities[:_HEADS])


@torch.no_grad()
def _probabilities(network: Network, row: Inputs) -> dict[str, Tensor]:
    """Of the first row, [heads, places, places] by the name of the node."""
    found: dict[str, Tensor] = {}

    def look(name: str, arguments: dict[str, Any], result: Any) -> None:
        weights = attention_weights(**arguments) if "query" in arguments else result
        if weights.dim() == 4 and len(found) < _LAYERS:
            found[name] = weights[0]

    looks = {node.name: partial(look, node.name) for node in network.module.graph.nodes if _attends(node)}
    if looks:
        observe(network, row, looks=looks)
    return found


def _attends(node: Node) -> bool:
    return node.target in _FUSED or (node.target in _SOFTMAX and bind(node)["dim"] in (-1, 3))


def attention_weights(
    query: Tensor,
    key: Tensor,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> Tensor:
    """softmax(q kᵀ · scale + mask), [*, heads, L, S], of q [*, heads, L, E] and k [*, groups, S, E].

    Source: Vaswani et al. 2017, "Attention Is All You Need", eq. 1; arguments as torch's scaled_dot_product_attention.
    """
    if key.dim() > 2 and key.shape[-3] != query.shape[-3]:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], dim=-3)
    scores = query @ key.transpose(-1, -2) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return scores.softmax(-1)
