"""Scaled dot-product attention: heads, query/key widths and value widths are axes of their own."""

import torch
from torch.fx import Node

from trimtab.graph.axes import Dim, cut_right, size
from trimtab.graph.kept import Kept
from trimtab.graph.rules.contract import NOT_ZERO, broadcast_batch
from trimtab.graph.rules.table import rule
from trimtab.graph.values import Call, Value, atoms, axes_of, set_argument

aten = torch.ops.aten


@rule(aten.scaled_dot_product_attention.default)
def scaled_dot_product_attention(call: Call) -> Value:
    """[*, H, L, E] with keys [*, G, S, E] and values [*, G, S, V] gives [*, H, L, V]; the default scale is pinned.

    With grouped queries H = G · repeats: key heads are cut with all their queries, or queries of every key head.
    """
    q, k, v = (call.value(name) for name in ("query", "key", "value"))
    width = q.dims[-1]
    call.unify(width, k.dims[-1])
    call.contract(width, (q, k), NOT_ZERO)
    call.unify(k.dims[-2], v.dims[-2])
    call.freeze([k.dims[-2]], "a softmax runs over the keys")
    if call.raw("is_causal"):
        call.freeze([q.dims[-2]], "a causal mask counts the queries")
    batch = _batch(call, q, k, v)
    mask = call.maybe("attn_mask")
    if mask is not None:
        _masked(call, mask, (*batch, q.dims[-2], k.dims[-2]))
    _pin_scale(call, width)
    of_value = axes_of((*v.dims[:-2], v.dims[-1]))
    repeated = axes_of((*batch, q.dims[-2])) - of_value
    return Value((*batch, q.dims[-2], v.dims[-1]), (of_value & atoms(v.alive)) | repeated)


def _batch(call: Call, q: Value, k: Value, v: Value) -> tuple[Dim, ...]:
    """The dimensions before the last two, of which the last are the heads."""
    if not call.raw("enable_gqa") or size(q.dims[-3]) == size(k.dims[-3]):
        keys = broadcast_batch(call, k.dims[:-2], v.dims[:-2])
        return broadcast_batch(call, q.dims[:-2], keys)
    call.unify(k.dims[-3], v.dims[-3])
    why = call.why("query heads do not divide by key heads")
    heads, _ = cut_right(q.dims[-3], size(q.dims[-3]) // size(k.dims[-3]), why)
    call.unify(heads, k.dims[-3])
    lead = broadcast_batch(call, q.dims[:-3], broadcast_batch(call, k.dims[:-3], v.dims[:-3]))
    return (*lead, q.dims[-3])


def _masked(call: Call, mask: Value, dims: tuple[Dim, ...]) -> None:
    for mine, theirs in zip(dims[len(dims) - len(mask.dims) :], mask.dims, strict=True):
        if size(theirs) == size(mine):
            call.unify(mine, theirs)


def _pin_scale(call: Call, width: Dim) -> None:
    def fix(node: Node, kept: Kept) -> None:
        if call.raw("scale") is None and kept.changed(width):
            set_argument(node, "scale", size(width) ** -0.5)

    call.fix(fix)
