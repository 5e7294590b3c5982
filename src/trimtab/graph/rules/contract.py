"""Contractions: convolutions, linear, matrix products. They use up one axis and make another."""

from collections.abc import Iterable

import torch
from torch.fx import Node

from trimtab.graph.axes import Axis, Dim, cut_right, size
from trimtab.graph.kept import Kept
from trimtab.graph.rules.table import rule
from trimtab.graph.values import Call, Value, atoms, axes_of, set_argument

aten = torch.ops.aten

NOT_ZERO = "it is summed over removed channels that are not zero in the masked network"


@rule(aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)
@rule(aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding)
def convolution(call: Call) -> Value:
    """[(N), C, *space] with weight [O, C/groups, *kernel] gives [(N), O, *space]."""
    x, weight, bias = call.value("input"), call.value("weight"), call.maybe("bias")
    at = len(x.dims) - len(weight.dims) + 1
    batch, channels, space = x.dims[:at], x.dims[at], x.dims[at + 1 :]
    call.freeze(weight.dims[2:], "kernel positions are not channels")
    groups = call.integer("groups")
    if groups == 1:
        call.unify(channels, weight.dims[1])
    else:
        _grouped(call, channels, weight, groups)
    call.contract(channels, (x, weight.along(1)), NOT_ZERO)
    call.role(weight, 1, "in")
    space_out = tuple(_slide(call, weight, i, dim) for i, dim in enumerate(space))
    return _produce(call, x, weight, bias, (batch, space_out))


def _grouped(call: Call, channels: Dim, weight: Value, groups: int) -> None:
    why = call.why("the groups of a convolution do not fit the factors of the channels")
    outer, inner = cut_right(channels, size(channels) // groups, why)
    weight_outer, _ = cut_right(weight.dims[0], size(weight.dims[0]) // groups, why)
    call.unify(outer, weight_outer)
    call.unify(inner, weight.dims[1])

    def fix(node: Node, kept: Kept) -> None:
        set_argument(node, "groups", kept.size(outer))

    call.fix(fix)


def _slide(call: Call, weight: Value, i: int, dim: Dim) -> Dim:
    """The output dimension for spatial dimension `i`: passed on by a kernel of 1 without stride and padding."""
    padding, stride = call.raw("padding"), call.raw("stride")
    unpadded = isinstance(padding, str) or _at(padding, i) == 0
    if size(weight.dims[2 + i]) == 1 and unpadded and _at(stride, i) == 1:
        return dim
    call.freeze([dim], "a convolution slides along this dimension")
    return call.constant(call.shape[i - (len(weight.dims) - 2)])


@rule(aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)
def transposed_convolution(call: Call) -> Value:
    """[N, C, *space] with weight [C, O/groups, *kernel] gives [N, O, *space]."""
    x, weight, bias = call.value("input"), call.value("weight"), call.maybe("bias")
    at = len(x.dims) - len(weight.dims) + 1
    batch, channels, space = x.dims[:at], x.dims[at], x.dims[at + 1 :]
    call.freeze(weight.dims[2:], "kernel positions are not channels")
    call.freeze(space, "a convolution slides along this dimension")
    call.unify(channels, weight.dims[0])
    groups, made = call.integer("groups"), weight.dims[1]
    if groups > 1:
        why = call.why("the groups of a convolution do not fit the factors of the channels")
        outer, _ = cut_right(channels, size(channels) // groups, why)
        made = (*outer, *weight.dims[1])

        def fix(node: Node, kept: Kept) -> None:
            set_argument(node, "groups", kept.size(outer))

        call.fix(fix)
    call.contract(channels, (x, weight), NOT_ZERO)
    call.role(weight, 0, "in")
    call.produce(weight, 1)
    alive = along(x, batch) | along(weight, [made])
    if bias is not None:
        call.unify(made, bias.dims[0])
        call.role(bias, 0, "out")
        alive = axes_of(batch) | along(weight, [made]) | along(bias, [made])
    return Value((*batch, made, *(call.constant(n) for n in call.shape[at + 1 :])), alive)


def _at(values: list[int], i: int) -> int:
    return values[i if len(values) > 1 else 0]


def _produce(
    call: Call, x: Value, weight: Value, bias: Value | None, around: tuple[tuple[Dim, ...], tuple[Dim, ...]]
) -> Value:
    """The output of a layer whose weight's dimension 0 makes the channels, between the dimensions `around` them."""
    if bias is not None:
        call.unify(weight.dims[0], bias.dims[0])
        call.role(bias, 0, "out")
    call.produce(weight, 0)
    passed = (*around[0], *around[1])
    alive = along(x, passed) if bias is None else axes_of(passed)
    alive |= along(weight.along(0), weight.dims[:1]) | (set() if bias is None else along(bias, bias.dims))
    return Value((*around[0], weight.dims[0], *around[1]), alive)


def along(value: Value, dims: Iterable[Dim]) -> set[Axis]:
    """The axes of `dims` along which a value does not vanish."""
    return atoms(value.alive) & axes_of(dims)


@rule(aten.linear.default)
def linear(call: Call) -> Value:
    """[*, I] with weight [O, I] gives [*, O]."""
    x, weight, bias = call.value("input"), call.value("weight"), call.maybe("bias")
    call.unify(x.dims[-1], weight.dims[-1])
    call.contract(x.dims[-1], (x, weight.along(-1)), NOT_ZERO)
    call.role(weight, len(weight.dims) - 1, "in")
    if len(weight.dims) == 1:
        return Value(x.dims[:-1], along(x, x.dims[:-1]))
    return _produce(call, x, weight, bias, (x.dims[:-1], ()))


@rule(aten.matmul.default, aten.linalg_matmul.default, aten.mm.default, aten.bmm.default)
def matmul(call: Call) -> Value:
    """[*, M, K] with [*, K, N] gives [*, M, N]; vectors on either side, batch dimensions broadcast."""
    a, b = call.value("self"), call.value("mat2" if "mat2" in call.arguments else "other")
    return _product(call, a, b)


@rule(aten.addmm.default, aten.addmm_.default)
def addmm(call: Call) -> Value:
    """bias [N] or [M, N] plus [M, K] with [K, N]."""
    return plus(call, _product(call, call.value("mat1"), call.value("mat2")))


@rule(aten.baddbmm.default, aten.baddbmm_.default)
def baddbmm(call: Call) -> Value:
    """A bias that broadcasts to [B, M, N], plus [B, M, K] with [B, K, N]."""
    return plus(call, _product(call, call.value("batch1"), call.value("batch2")))


def plus(call: Call, out: Value) -> Value:
    """A product plus the argument `self`, which broadcasts to it."""
    bias = call.value("self")
    padded = ((),) * (len(out.dims) - len(bias.dims)) + bias.dims
    missing: list[Dim] = []
    for mine, theirs in zip(out.dims, padded, strict=True):
        if size(theirs) == size(mine):
            call.unify(mine, theirs)
        else:
            missing.append(mine)
    if size(bias.dims[-1]) > 1:
        call.role(bias, len(bias.dims) - 1, "out")
    return out.new(alive=bias.alive | axes_of(missing))


def _product(call: Call, a: Value, b: Value) -> Value:
    inner_b = -2 if len(b.dims) > 1 else -1
    call.unify(a.dims[-1], b.dims[inner_b])
    call.contract(a.dims[-1], (a, b), NOT_ZERO)
    for value, dim in ((a, len(a.dims) - 1), (b, len(b.dims) + inner_b)):
        call.role(value, dim, "in")
    if len(b.dims) > 1:
        call.produce(b, len(b.dims) - 1)
    if len(a.dims) > 1:
        call.produce(a, len(a.dims) - 2)
    batch = broadcast_batch(call, a.dims[:-2], b.dims[:-2])
    rows, columns = a.dims[:-1][-1:], b.dims[-1:] if len(b.dims) > 1 else ()
    # An element is zero where its row of `a` or its column of `b` is, and along a batch axis where either of them is.
    in_batch = _along_batch(a, a.dims[:-2], batch) & _along_batch(b, b.dims[:-2], batch)
    alive = along(a, rows) | along(b, columns) | in_batch
    return Value((*batch, *rows, *columns), alive)


def _along_batch(value: Value, own: tuple[Dim, ...], batch: tuple[Dim, ...]) -> set[Axis]:
    """Where a factor does not vanish along the batch axes of a product; it is repeated along those that it lacks."""
    axes = axes_of(batch)
    return axes & (atoms(value.alive) | (axes - axes_of(own)))


def broadcast_batch(call: Call, a: tuple[Dim, ...], b: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """Batch dimensions of a product, aligned at the right; one of size 1 is repeated."""
    rank = max(len(a), len(b))
    out = []
    for p, q in zip(((),) * (rank - len(a)) + a, ((),) * (rank - len(b)) + b, strict=True):
        if size(p) != 1 and size(q) != 1:
            call.unify(p, q)
        out.append(p if size(p) != 1 else q)
    return tuple(out)
