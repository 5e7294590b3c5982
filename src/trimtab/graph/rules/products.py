"""Products of vectors, matrices and tensors that are Einstein sums by other names, and distances between vectors."""

import torch

from trimtab.graph.axes import Axis, Dim, size
from trimtab.graph.rules.contract import NOT_ZERO, broadcast_batch, plus
from trimtab.graph.rules.einsum import einstein
from trimtab.graph.rules.elementwise import broadcast
from trimtab.graph.rules.table import rule
from trimtab.graph.values import Call, Value, atoms, axes_of

aten = torch.ops.aten

SUM_OF_DIFFERENCES = "differences are summed over removed channels that are not zero in the masked network"
EPS_ADDED = "eps is added to the difference at every position, removed ones too"


@rule(aten.dot.default, aten.vdot.default)
def dot(call: Call) -> Value:
    """[K] and [K] give one number."""
    names = list(call.arguments)
    return einstein(call, ["k", "k"], [call.value(name) for name in names], "")


@rule(aten.mv.default)
def mv(call: Call) -> Value:
    """[M, K] with [K] gives [M]."""
    return einstein(call, ["mk", "k"], [call.value("self"), call.value("vec")], "m")


@rule(aten.addmv.default, aten.addmv_.default)
def addmv(call: Call) -> Value:
    """A bias that broadcasts to [M], plus [M, K] with [K]."""
    return plus(call, einstein(call, ["mk", "k"], [call.value("mat"), call.value("vec")], "m"))


@rule(aten.addr.default, aten.addr_.default)
def addr(call: Call) -> Value:
    """A bias that broadcasts to [M, N], plus [M] times [N]."""
    return plus(call, einstein(call, ["m", "n"], [call.value("vec1"), call.value("vec2")], "mn"))


@rule(aten.outer.default)
def outer(call: Call) -> Value:
    """[M] and [N] give [M, N]."""
    return einstein(call, ["m", "n"], [call.value("self"), call.value("vec2")], "mn")


@rule(aten.addbmm.default, aten.addbmm_.default)
def addbmm(call: Call) -> Value:
    """A bias that broadcasts to [M, N], plus the sum over b of [B, M, K] with [B, K, N]."""
    values = [call.value("batch1"), call.value("batch2")]
    return plus(call, einstein(call, ["bmk", "bkn"], values, "mn"))


@rule(aten.inner.default)
def inner(call: Call) -> Value:
    """[*M, K] with [*N, K] gives [*M, *N]; one number multiplies."""
    a, b = call.value("self"), call.value("other")
    left, right = ([f"{side}{i}" for i in range(len(v.dims) - 1)] for side, v in (("m", a), ("n", b)))
    return einstein(call, [[*left, "k"], [*right, "k"]], [a, b], [*left, *right])


@rule(aten.tensordot.default)
def tensordot(call: Call) -> Value:
    """Dimensions `dims_self` of one with `dims_other` of the other are summed; the rest stand side by side."""
    a, b = call.value("self"), call.value("other")
    left, right = ([f"{side}{i}" for i in range(len(v.dims))] for side, v in (("m", a), ("n", b)))
    for i, j in zip(call.raw("dims_self"), call.raw("dims_other"), strict=True):
        right[j % len(b.dims)] = left[i % len(a.dims)]
    output = [letter for letter in (*left, *right) if not (letter in left and letter in right)]
    return einstein(call, [left, right], [a, b], output)


@rule(aten.bilinear.default)
def bilinear(call: Call) -> Value:
    """[*, I] and [*, J] with weight [O, I, J] and bias [O] give [*, O]."""
    a, b, weight, bias = call.value("input1"), call.value("input2"), call.value("weight"), call.maybe("bias")
    lead = [f".{i}" for i in range(len(a.dims) - 1)]
    out = einstein(call, [[*lead, "i"], [*lead, "j"], "oij"], [a, b, weight], [*lead, "o"])
    if bias is None:
        return out
    call.unify(weight.dims[0], bias.dims[0])
    call.role(bias, 0, "out")
    return out.new(alive=atoms(bias.alive) | axes_of(out.dims[:-1]))


@rule(aten.cdist.default)
def cdist(call: Call) -> Value:
    """Distances between the rows of [*, P, M] and of [*, R, M]: [*, P, R]."""
    a, b = call.value("x1"), call.value("x2")
    call.unify(a.dims[-1], b.dims[-1])
    _differences(call, a.dims[-1], a, b)
    lead = broadcast_batch(call, a.dims[:-2], b.dims[:-2])
    dims = (*lead, a.dims[-2], b.dims[-2])
    return Value(dims, axes_of(dims))


@rule(aten.linalg_vecdot.default)
def vecdot(call: Call) -> Value:
    """The scalar product along one dimension."""
    a, b = call.value("x"), call.value("y")
    rank = max(len(a.dims), len(b.dims))
    at = call.axis("dim", rank)
    letters = [f".{i}" for i in range(rank)]
    operands = [letters[rank - len(value.dims) :] for value in (a, b)]
    return einstein(call, operands, [a, b], [letter for i, letter in enumerate(letters) if i != at])


@rule(aten.cross.default, aten.linalg_cross.default)
def cross(call: Call) -> Value:
    """The vector product along a dimension of 3."""
    a, b = call.value("self"), call.value("other")
    dims = _met(call, a, b)
    at = call.raw("dim")
    at = next(i for i, dim in enumerate(dims) if size(dim) == 3) if at is None else at % len(dims)
    call.freeze([dims[at]], "a vector product mixes positions of this dimension")
    return Value(dims, _alive(a, dims) & _alive(b, dims))


@rule(aten.trace.default)
def trace(call: Call) -> Value:
    """The sum of a diagonal, whose dimensions are cut alike."""
    return einstein(call, ["ii"], [call.value("self")], "")


@rule(aten.pairwise_distance.default)
def pairwise_distance(call: Call) -> Value:
    """The norm over the last dimension of x1 - x2 + eps."""
    a, b = call.value("x1"), call.value("x2")
    dims = _met(call, a, b)
    _differences(call, dims[-1], a, b)
    if call.raw("eps"):
        call.inexact(dims[-1:], EPS_ADDED)
    left = (*dims[:-1], ()) if call.raw("keepdim") else dims[:-1]
    return Value(left, axes_of(left))


def _differences(call: Call, dim: Dim, a: Value, b: Value) -> None:
    """Powers of |a - b| are summed along `dim`: what is removed adds nothing where both vanish."""
    if not 0 < float(call.raw("p")) < float("inf"):
        call.freeze([dim], "the distance depends on every position of this dimension")
    call.contract(dim, [Value((), set(a.alive) | set(b.alive))], SUM_OF_DIFFERENCES)


@rule(aten.cosine_similarity.default)
def cosine_similarity(call: Call) -> Value:
    """The scalar product along one dimension over both norms: exact where both vanish at what is removed."""
    a, b = call.value("x1"), call.value("x2")
    dims = _met(call, a, b)
    at = call.axis("dim", len(dims))
    call.contract(dims[at], [Value((), set(a.alive) | set(b.alive))], NOT_ZERO)
    left = (*dims[:at], *dims[at + 1 :])
    return Value(left, _alive(a, dims) & _alive(b, dims) & axes_of(left))


def _met(call: Call, a: Value, b: Value) -> tuple[Dim, ...]:
    """The dimensions to which two tensors broadcast."""
    rank = max(len(a.dims), len(b.dims))
    padded = [((),) * (rank - len(value.dims)) + value.dims for value in (a, b)]
    return broadcast(call, [a, b], [max(size(p), size(q)) for p, q in zip(*padded, strict=True)])


def _alive(value: Value, dims: tuple[Dim, ...]) -> set[Axis]:
    """Where a value that is repeated to `dims` does not vanish."""
    return atoms(value.alive) | (axes_of(dims) - axes_of(value.dims))
