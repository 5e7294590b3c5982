"""Weights that are computed from parameters: a direction times a length."""

import torch

from trimtab.graph.rules.contract import NOT_ZERO
from trimtab.graph.rules.table import rule
from trimtab.graph.values import Call, OverKept, Value

aten = torch.ops.aten


@rule(aten._weight_norm.default)
def weight_norm(call: Call) -> Value:
    """g · v / ‖v‖, where ‖v‖ and g have the size of v along `dim` and 1 along all others; without `dim` g is a number.

    A cut along `dim` leaves the other rows as they are; a masked row, 0 / 0, counts as zero. Along the others the norm
    is over what is kept, as it is when v is zero at what is removed: exact, and g is then the length of what is left.
    """
    v, g = call.value("v"), call.value("g")
    dim = call.integer("dim")
    rows = None if dim == -1 else dim
    for i, mine in enumerate(v.dims):
        if i == rows:
            call.unify(mine, g.dims[i])
            call.role(g, i, "scale")
        else:
            call.contract(mine, (v,), NOT_ZERO)
    if rows is not None:
        row = tuple(dim if i == rows else () for i, dim in enumerate(v.dims))
        call.facts.over_kept[call.node] = OverKept(row, {"v": row, "g": row}, row, lambda node, kept: None)
    return Value(v.dims, set(v.alive), v.origin)
