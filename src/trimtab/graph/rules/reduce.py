"""Reductions: sums and means are pinned or checked; what depends on the set of positions freezes them."""

import torch
from torch.fx import Node

from trimtab.graph.axes import Dim, size
from trimtab.graph.kept import Kept
from trimtab.graph.rules.elementwise import overloads
from trimtab.graph.rules.table import rule
from trimtab.graph.sizes import scale_output
from trimtab.graph.values import Call, Value, axes_of

aten = torch.ops.aten

NOT_ZERO = "it is summed over removed channels that are not zero in the masked network"


def _reduced(call: Call, x: Value, name: str = "dim") -> list[int]:
    """The reduced dimensions, non-negative; all of them where the operator names none."""
    raw = call.arguments.get(name)
    rank = max(len(x.dims), 1)
    if raw is None or raw == []:
        return list(range(len(x.dims)))
    return sorted({d % rank for d in (raw if isinstance(raw, (list, tuple)) else [raw])})


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


@rule(aten.sum.default, aten.sum.dim_IntList)
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
    *overloads("amax", "amin", "argmax", "argmin", "prod", "var", "std", "logsumexp", "any", "all"),
    aten.max.dim,
    aten.max.default,
    aten.min.dim,
    aten.min.default,
    aten.median.dim,
    aten.linalg_vector_norm.default,
    aten.norm.ScalarOpt_dim,
)
def reduction(call: Call) -> Value | list[Value]:
    """The reduced dimensions are frozen: the result depends on which positions there are."""
    x = call.value("self")
    if isinstance(call.arguments.get("dim"), str):
        raise NotImplementedError("dimensions by name")
    reduced = _reduced(call, x)
    call.freeze([x.dims[i] for i in reduced], "a reduction depends on every position of this dimension")
    left = _left(call, x, reduced)
    out = x.new(left, alive=axes_of(left))
    return out if len(call.shapes) == 1 else [out, out.new()]


@rule(
    *overloads("softmax", "log_softmax", "softmin", "cumsum", "cumprod", "logcumsumexp"),
    aten._softmax.default,
    aten._log_softmax.default,
)
def along(call: Call) -> Value:
    """One dimension is frozen: every position depends on the others."""
    x = call.value(next(iter(call.arguments)))
    at = call.axis("dim", len(x.dims))
    call.freeze([x.dims[at]], "positions of this dimension depend on one another")
    dims = [call.constant(call.shape[i]) if i == at else dim for i, dim in enumerate(x.dims)]
    return x.new(dims, alive=axes_of(dims))
