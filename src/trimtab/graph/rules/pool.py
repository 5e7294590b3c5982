"""Pooling and resampling over space: the leading dimensions stay, the spatial ones are frozen."""

import torch

from trimtab.graph.rules.table import rule
from trimtab.graph.values import Call, Value, axes_of

aten = torch.ops.aten


def _windows(call: Call, rank: int) -> Value:
    x = call.value("self" if "self" in call.arguments else "input")
    lead, space = x.dims[: len(x.dims) - rank], x.dims[len(x.dims) - rank :]
    call.freeze(space, "a window slides along this dimension")
    return x.new([*lead, *(call.constant(n) for n in call.shapes[0][len(lead) :])])


@rule(
    aten.max_pool1d.default,
    aten.avg_pool1d.default,
    aten.adaptive_avg_pool1d.default,
    aten.upsample_nearest1d.vec,
    aten.upsample_nearest1d.default,
    aten.upsample_linear1d.vec,
    aten.upsample_linear1d.default,
    aten._upsample_nearest_exact1d.vec,
    aten._upsample_nearest_exact1d.default,
)
def pool1d(call: Call) -> Value:
    """Windows along the last dimension."""
    return _windows(call, 1)


@rule(
    aten.max_pool2d.default,
    aten.avg_pool2d.default,
    aten.adaptive_avg_pool2d.default,
    aten.upsample_nearest2d.vec,
    aten.upsample_nearest2d.default,
    aten.upsample_bilinear2d.vec,
    aten.upsample_bilinear2d.default,
    aten.upsample_bicubic2d.vec,
    aten.upsample_bicubic2d.default,
    aten._upsample_nearest_exact2d.vec,
    aten._upsample_nearest_exact2d.default,
)
def pool2d(call: Call) -> Value:
    """Windows along the last two dimensions."""
    return _windows(call, 2)


@rule(
    aten.max_pool3d.default,
    aten.avg_pool3d.default,
    aten.adaptive_avg_pool3d.default,
    aten.upsample_nearest3d.vec,
    aten.upsample_nearest3d.default,
    aten.upsample_trilinear3d.vec,
    aten.upsample_trilinear3d.default,
)
def pool3d(call: Call) -> Value:
    """Windows along the last three dimensions."""
    return _windows(call, 3)


@rule(aten.max_pool1d_with_indices.default, aten.adaptive_max_pool1d.default)
def max_pool1d_with_indices(call: Call) -> list[Value]:
    """Windows along the last dimension: maxima, and where they are."""
    return _with_indices(_windows(call, 1))


@rule(aten.max_pool2d_with_indices.default, aten.adaptive_max_pool2d.default)
def max_pool2d_with_indices(call: Call) -> list[Value]:
    """Windows along the last two dimensions: maxima, and where they are."""
    return _with_indices(_windows(call, 2))


def _with_indices(x: Value) -> list[Value]:
    return [x, x.new(alive=axes_of(x.dims))]
