"""Channels moved into space and back, and channels interleaved."""

import torch
from torch.fx import Node

from trimtab.graph.axes import cut_right, size
from trimtab.graph.kept import Kept
from trimtab.graph.rules.table import rule
from trimtab.graph.values import Call, Value, set_argument

aten = torch.ops.aten

INTO_SPACE = "its positions become positions in space"


@rule(aten.pixel_shuffle.default)
def pixel_shuffle(call: Call) -> Value:
    """[*, C·r·r, H, W] gives [*, C, H·r, W·r]: the r·r channels of a block are one unit."""
    x = call.value("self")
    block = call.integer("upscale_factor") ** 2
    channels, inner = cut_right(x.dims[-3], block, call.why("channels do not divide into blocks of pixels"))
    call.freeze([inner, *x.dims[-2:]], INTO_SPACE)
    return x.new([*x.dims[:-3], channels, *(call.constant(n) for n in call.shape[-2:])])


@rule(aten.pixel_unshuffle.default)
def pixel_unshuffle(call: Call) -> Value:
    """[*, C, H·r, W·r] gives [*, C·r·r, H, W]: a channel becomes a block of r·r channels."""
    x = call.value("self")
    call.freeze(x.dims[-2:], "positions in space become channels")
    block = call.constant(call.integer("downscale_factor") ** 2, "it numbers the positions in a block of pixels")
    return x.new([*x.dims[:-3], (*x.dims[-3], *block), *(call.constant(n) for n in call.shape[-2:])])


@rule(aten.channel_shuffle.default, aten.native_channel_shuffle.default)
def channel_shuffle(call: Call) -> Value:
    """[N, g·C, *] gives [N, C·g, *]: groups of channels are interleaved."""
    x = call.value("self" if "self" in call.arguments else "input")
    each = size(x.dims[1]) // call.integer("groups")
    outer, inner = cut_right(
        x.dims[1], each, call.why("the groups of a shuffle do not fit the factors of the channels")
    )

    def fix(node: Node, kept: Kept) -> None:
        set_argument(node, "groups", kept.size(outer))

    call.fix(fix)
    return x.new([x.dims[0], (*inner, *outer), *x.dims[2:]])
