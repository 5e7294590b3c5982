"""Reductions: sums and means are pinned or checked; what depends on the set of positions freezes them."""

import torch
from torch.fx import Node

from trimtab.graph.axes import Dim, is_free, size
from trimtab.graph.kept import Kept
from trimtab.graph.limits import Limit
from trimtab.graph.rules.elementwise import overloads
from trimtab.graph.rules.table import rule
from trimtab.graph.sizes import scale_output
from trimtab.graph.values import Call, OverKept, Value, axes_of

aten = torch.ops.aten

NOT_ZERO = "it is summed over removed channels that are not zero in the masked network"
EVERY_POSITION = "a reduction depends on every position of this dimension"
SPREAD = "a variance is taken over its units, and removed ones cannot be made to count as if they were zero"


def _reduced(call: Call, x: Value) -> list[int]:
    """The reduced dimensions, non-negative; all of them where the operator names none. Raises: NotImplementedError."""
    raw = call.arguments.get("dim")
    rank = max(len(x.dims), 1)
    if raw is None or raw == []:
        return list(range(len(x.dims)))
    names = raw if isinstance(raw, (list, tuple)) else [raw]
    if not all(isinstance(name, int) for name in names):
        raise NotImplementedError("dimensions by name")
    return sorted({d % rank for d in names})


def _left(call: Call, x: Value, reduced: list[int]) -> list[Dim]:
    if call.arguments.get("keepdim"):
        return [() if i in reduced else dim for i, dim in enumerate(x.dims)]
    return [dim for i, dim in enumerate(x.dims) if i not in reduced]


def _summed(call: Call, reason: str) -> tuple[Value, list[Dim]]:
    x = call.value("self")
    reduced = _reduced(call, x)
    gone = [x.dims[i] for i in reduced]
    for dim in gone:
        call.contract(dim, (x,), reason)
    return x.new(_left(call, x, reduced)), gone


@rule(
    *overloads("nansum", "any", "count_nonzero"),
    aten.sum.default,
    aten.sum.dim_IntList,
)
def sum_(call: Call) -> Value:
    """Removed channels add nothing where they are zero in the masked network."""
    return _summed(call, NOT_ZERO)[0]


@rule(aten.mean.default, aten.mean.dim)
def mean(call: Call) -> Value:
    """Pinned: the sum stays divided by the original number of positions, so the mean is multiplied by new / old."""
    out, gone = _summed(call, NOT_ZERO)

    def fix(node: Node, kept: Kept) -> None:
        new = old = 1
        for dim in gone:
            new, old = new * kept.size(dim), old * size(dim)
        if new != old:
            scale_output(node, new / old)

    call.fix(fix)
    return out


@rule(
    aten.linalg_vector_norm.default,
    aten.norm.Scalar,
    aten.norm.ScalarOpt_dim,
    aten.norm.ScalarOpt_dtype,
    aten.norm.ScalarOpt_dim_dtype,
    aten.frobenius_norm.dim,
)
def norm(call: Call) -> Value:
    """Powers of absolute values are summed, or the largest is taken: what is zero adds nothing to either."""
    given = call.arguments.get("ord", call.arguments.get("p"))
    if given is not None and float(given) < 0:
        return _every_position(call)
    return _summed(call, NOT_ZERO)[0]


@rule(*overloads("var", "std", "var_mean", "std_mean"))
def spread(call: Call) -> Value | list[Value]:
    """Over a cut axis it is not exact: the spread of the kept units about their own mean."""
    x = call.value("self")
    reduced = _reduced(call, x)
    mixed = [x.dims[i] for i in reduced]
    call.inexact(mixed, SPREAD)
    if all(is_free(dim) or size(dim) == 1 for dim in mixed):
        for dim in mixed:
            call.limit(dim, Limit(at_least=min(2, size(dim))), "one unit has no spread")
    picked = tuple(dim if i in reduced else () for i, dim in enumerate(x.dims))
    call.facts.over_kept[call.node] = OverKept(tuple(mixed), {"self": picked}, (), lambda node, kept: None)
    out = x.new(_left(call, x, reduced))
    return out if len(call.shapes) == 1 else [out, out.new()]


@rule(aten.linalg_norm.default, aten.linalg_matrix_norm.default, aten.linalg_matrix_norm.str_ord)
def matrix_norm(call: Call) -> Value:
    """Norms of vectors are sums of powers; those of matrices depend on every position."""
    x = call.value("A" if "A" in call.arguments else "self")
    raw, order = call.raw("dim"), call.raw("ord")
    named = raw if isinstance(raw, (list, tuple)) else range(len(x.dims)) if raw is None else [raw]
    reduced = sorted({d % len(x.dims) for d in named})
    of_vectors = "linalg_norm" in call.operator and (len(reduced) == 1 or order is None)
    if of_vectors and (order is None or order >= 0):
        for i in reduced:
            call.contract(x.dims[i], (x,), NOT_ZERO)
    else:
        call.freeze([x.dims[i] for i in reduced], EVERY_POSITION)
    return x.new(_left(call, x, reduced))


@rule(
    *overloads("amax", "amin", "prod", "all", "nanmean"),
    aten.max.default,
    aten.min.default,
)
def reduction(call: Call) -> Value:
    """The reduced dimensions are frozen: the result depends on which positions there are, and is zero for zeros."""
    return _every_position(call)


@rule(*overloads("logsumexp"))
def logsumexp(call: Call) -> Value:
    """As other reductions, but not zero for zeros."""
    out = _every_position(call)
    return out.new(alive=axes_of(out.dims))


def _every_position(call: Call) -> Value:
    x = call.value("self")
    reduced = _reduced(call, x)
    call.freeze([x.dims[i] for i in reduced], EVERY_POSITION)
    return x.new(_left(call, x, reduced))


@rule(
    *overloads("median", "nanmedian", "kthvalue", "mode", "aminmax", "quantile", "nanquantile"),
)
def order_statistic(call: Call) -> Value | list[Value]:
    """The reduced dimensions are frozen; values, and where the operator gives them their positions."""
    out = _every_position(call)
    if call.arguments.get("q") is not None and len(call.shape) > len(out.dims):
        out = out.new([call.constant(call.shape[0]), *out.dims])
    return out if len(call.shapes) == 1 else [out, out.new(alive=axes_of(out.dims))]


@rule(*overloads("cumprod", "logcumsumexp", "cummax", "cummin"))
def along(call: Call) -> Value | list[Value]:
    """One dimension is frozen: every position depends on the others."""
    x = call.value(next(iter(call.arguments)))
    at = call.axis("dim", len(x.dims))
    call.freeze([x.dims[at]], "positions of this dimension depend on one another")
    dims = [call.constant(call.shapes[0][i]) if i == at else dim for i, dim in enumerate(x.dims)]
    out = x.new(dims, alive=axes_of(dims))
    return out if len(call.shapes) == 1 else [out, out.new()]


@rule(aten.diff.default)
def difference(call: Call) -> Value:
    """Neighbours along one dimension are subtracted: it is frozen."""
    x = call.value("self")
    if call.has("prepend") or call.has("append"):
        raise NotImplementedError("a difference with something before or after")
    at = call.axis("dim", len(x.dims))
    call.freeze([x.dims[at]], "neighbours along this dimension are subtracted")
    return x.new([call.constant(call.shape[i]) if i == at else dim for i, dim in enumerate(x.dims)])
