"""Pooling and resampling over space: the leading dimensions stay, the spatial ones are frozen."""

from typing import Any

import torch
from torch.fx import Node

from trimtab.graph.axes import Dim, MisfitError
from trimtab.graph.rules.table import rule
from trimtab.graph.values import Call, Count, Value, axes_of

aten = torch.ops.aten


def _windows(call: Call, rank: int) -> Value:
    x = call.value("self" if "self" in call.arguments else "input")
    lead, space = x.dims[: len(x.dims) - rank], x.dims[len(x.dims) - rank :]
    out = [_slide(call, i, dim, n) for i, (dim, n) in enumerate(zip(space, call.shapes[0][len(lead) :], strict=True))]
    return x.new([*lead, *out])


def _slide(call: Call, i: int, dim: Dim, n: int) -> Dim:
    """Spatial dimension `i`, of `n` positions: passed on by a window of 1 without stride and padding."""
    given = [call.arguments.get(name) for name in ("kernel_size", "stride", "padding")]
    if given[0] is not None:
        window, stride, padding = (list(item) if isinstance(item, (list, tuple)) else [item] for item in given)
        if _at(window, i) == 1 and _at(stride or window, i) == 1 and _at(padding, i) == 0:
            return dim
    call.freeze([dim], "a window slides along this dimension")
    return call.constant(n)


def _at(values: list[Any], i: int) -> Any:
    return values[i if len(values) > 1 else 0]


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


@rule(aten.max_pool3d_with_indices.default, aten.adaptive_max_pool3d.default)
def max_pool3d_with_indices(call: Call) -> list[Value]:
    """Windows along the last three dimensions: maxima, and where they are."""
    return _with_indices(_windows(call, 3))


def _with_indices(x: Value) -> list[Value]:
    return [x, x.new(alive=axes_of(x.dims))]


@rule(aten.max_unpool2d.default, aten.max_unpool3d.default)
def max_unpool(call: Call) -> Value:
    """Maxima put back where they were, with zeros around; places are counted in each channel alone."""
    x, indices = call.value("self"), call.value("indices")
    rank = 2 if "2d" in call.operator else 3
    for mine, theirs in zip(x.dims, indices.dims, strict=True):
        call.unify(mine, theirs)
    lead = len(x.dims) - rank
    call.freeze(x.dims[lead:], "positions of this dimension go where the indices say")
    return x.new([*x.dims[:lead], *(call.constant(n) for n in call.shape[lead:])])


@rule(aten.fractional_max_pool2d.default, aten.fractional_max_pool3d.default)
def fractional_max_pool(call: Call) -> list[Value]:
    """Windows at random places, drawn for every channel."""
    raise MisfitError("its windows are drawn at random for every channel")


@rule(aten.grid_sampler.default, aten.grid_sampler_2d.default, aten.grid_sampler_3d.default)
def grid_sampler(call: Call) -> Value:
    """[N, C, *space] sampled at grid [N, *places, coordinates] gives [N, C, *places]."""
    x, grid = call.value("input"), call.value("grid")
    call.unify(x.dims[0], grid.dims[0])
    call.freeze([*x.dims[2:], *grid.dims[1:]], "it is sampled at places in space")
    return x.new([*x.dims[:2], *(call.constant(n) for n in call.shape[2:])])


@rule(aten.affine_grid_generator.default)
def affine_grid(call: Call) -> Value:
    """Places [N, *space, coordinates] from matrices [N, r, r + 1] and a size, of which the channels do not matter."""
    theta = call.value("theta")
    call.freeze(theta.dims[1:], "it holds coordinates in space")
    for i, item in enumerate(call.raw("size")):
        found = call.facts.values.get(item) if isinstance(item, Node) else None
        if isinstance(found, Count) and i > 1:
            call.freeze([found.dim], "its size is a number of places in space")
    return Value((theta.dims[0], *(call.constant(n) for n in call.shape[1:])))
