"""Normalizations by the statistics of the input itself: layer, group, instance and RMS norm, softmax."""

from collections.abc import Sequence

import torch
from torch.fx import Node

from trimtab.graph.axes import Axis, Dim, cut_right, size
from trimtab.graph.kept import Kept
from trimtab.graph.modes import always_on
from trimtab.graph.rules.contract import NOT_ZERO
from trimtab.graph.rules.elementwise import overloads
from trimtab.graph.rules.table import rule
from trimtab.graph.sizes import emit_sizes, scale_output
from trimtab.graph.values import Call, OverKept, Value, atoms, axes_of, set_argument

aten = torch.ops.aten

OVER_UNITS = "mean and variance are taken over its units, and removed ones cannot be made to count as if they were zero"


EXPONENTIALS = "all of its units share one sum of exponentials, to which a unit that is zero would still add"


@rule(*overloads("softmax", "log_softmax"), aten._softmax.default, aten._log_softmax.default)
def softmax(call: Call) -> Value:
    """Over a cut axis the kept units share what the removed ones leave: not exact."""
    x, name = call.value(next(iter(call.arguments))), next(iter(call.arguments))
    mixed = x.dims[call.axis("dim", len(x.dims))]
    call.inexact([mixed], EXPONENTIALS)
    call.facts.over_kept[call.node] = OverKept((mixed,), {name: x.dims}, x.dims, lambda node, kept: None)
    return Value(x.dims, axes_of(x.dims) - axes_of([mixed]))


@rule(aten.layer_norm.default)
def layer_norm(call: Call) -> Value:
    """[*, *shape] normalized over `shape`, with weight and bias [*shape]: over a cut axis it is not exact."""
    x = call.value("input")
    first = len(x.dims) - len(call.raw("normalized_shape"))
    lead, tail = x.dims[:first], x.dims[first:]
    _affine(call, tail)
    emit_sizes(call, "normalized_shape", tail)
    mix(call, x, tail)
    return Value(x.dims, _alive(call, x, (lead, tail), axes_of(tail)))


@rule(aten.group_norm.default)
def group_norm(call: Call) -> Value:
    """[N, C, *] normalized over C/groups channels and all positions: whole groups can go, the number follows."""
    x = call.value("input")
    batch, channels, space = x.dims[:1], x.dims[1], x.dims[2:]
    _affine(call, [channels])
    why = call.why("the groups of a norm do not fit the factors of the channels")
    outer, inner = cut_right(channels, size(channels) // call.integer("num_groups"), why)

    def fix(node: Node, kept: Kept) -> None:
        set_argument(node, "num_groups", kept.size(outer))

    call.fix(fix)
    mix(call, x, [inner, *space])
    return Value(x.dims, _alive(call, x, ((*batch, *space), (channels,)), axes_of([inner])))


@rule(aten.instance_norm.default)
def instance_norm(call: Call) -> Value:
    """[N, C, *] normalized over all positions: channels stay apart."""
    x = call.value("input")
    batch, channels, space = x.dims[:1], x.dims[1], x.dims[2:]
    _affine(call, [channels], ("weight", "bias", "running_mean", "running_var"))
    mix(call, x, space)
    stored = set() if always_on(call, "use_input_stats") else axes_of([channels])
    return Value(x.dims, _alive(call, x, ((*batch, *space), (channels,)), stored))


@rule(aten.rms_norm.default)
def rms_norm(call: Call) -> Value:
    """[*, *shape] divided by its root mean square over `shape`.

    Pinned: the mean stays the sum over the original number of positions, so with r = new / old it is r times the mean
    over what is kept: sqrt(r · mean + eps) = sqrt(r) · sqrt(mean + eps / r).
    """
    x, weight = call.value("input"), call.maybe("weight")
    first = len(x.dims) - len(call.raw("normalized_shape"))
    tail = x.dims[first:]
    _affine(call, tail, ("weight",))
    for dim in tail:
        call.contract(dim, (x,), NOT_ZERO)
    emit_sizes(call, "normalized_shape", tail)
    given = call.raw("eps")
    eps = torch.finfo(call.node.meta["val"].dtype).eps if given is None else given

    def pin(node: Node, kept: Kept) -> None:
        ratio = 1.0
        for dim in tail:
            ratio *= kept.size(dim) / size(dim)
        if ratio != 1:
            set_argument(node, "eps", eps / ratio)
            scale_output(node, ratio**-0.5)

    call.fix(pin)
    alive = atoms(x.alive)
    return Value(x.dims, alive if weight is None else alive - (axes_of(tail) - atoms(weight.alive)))


def _affine(call: Call, dims: Sequence[Dim], names: Sequence[str] = ("weight", "bias")) -> None:
    for name in names:
        value = call.maybe(name)
        if value is None:
            continue
        for i, (mine, theirs) in enumerate(zip(dims, value.dims, strict=True)):
            call.unify(mine, theirs)
            call.role(value, i, "norm")


def _alive(call: Call, x: Value, dims: tuple[Sequence[Dim], Sequence[Dim]], mixed: set[Axis]) -> set[Axis]:
    """Where the output may be non-zero, for dimensions (without, with) weights; `mixed`: even where x is zero."""
    weight, bias = call.maybe("weight"), call.maybe("bias")
    apart, affine = axes_of(dims[0]), axes_of(dims[1])
    alive = atoms(x.alive)
    if bias is not None:
        kept = set() if weight is None else affine & atoms(weight.alive)
        return apart | kept | (affine & atoms(bias.alive))
    if weight is not None:
        return (alive & apart) | (affine & atoms(weight.alive))
    return (alive & (apart | affine)) | mixed


def mix(call: Call, x: Value, mixed: Sequence[Dim]) -> None:
    """State that a cut along `mixed` is not exact, and what its proof needs. All fixes must be registered before."""
    call.inexact(mixed, OVER_UNITS)
    tensors = {"input": x.dims}
    for name in ("weight", "bias", "running_mean", "running_var"):
        value = call.maybe(name)
        if value is not None:
            tensors[name] = value.dims
    fixes = [fix for _, fix in call.fixes]

    def again(node: Node, kept: Kept) -> None:
        for fix in fixes:
            fix(node, kept)

    call.facts.over_kept[call.node] = OverKept(tuple(mixed), tensors, x.dims, again)
