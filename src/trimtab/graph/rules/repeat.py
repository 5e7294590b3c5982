"""Repetition: the number of repeats is an outer or inner factor, which is written anew after a cut."""

import torch
from torch.fx import Node

from trimtab.graph.axes import Dim, MisfitError, size
from trimtab.graph.kept import Kept
from trimtab.graph.rules.table import rule
from trimtab.graph.values import Call, Value, axes_of, bind, set_argument

aten = torch.ops.aten


@rule(aten.repeat.default, aten.tile.default)
def repeat(call: Call) -> Value:
    """Whole dimensions one after another: [C] repeated r times is [r, C] in one dimension."""
    x = call.value("self")
    name = "repeats" if "repeats" in call.arguments else "dims"
    times = [1] * (len(call.shape) - len(call.raw(name))) + list(call.raw(name))
    padded = ((),) * (len(times) - len(x.dims)) + x.dims
    outer = [_times(call, raw, n // max(size(dim), 1)) for raw, n, dim in zip(times, call.shape, padded, strict=True)]

    def fix(node: Node, kept: Kept) -> None:
        old = list(bind(node)[name])
        named = outer[len(outer) - len(old) :]
        new = [kept.size(dim) if kept.changed(dim) else item for item, dim in zip(old, named, strict=True)]
        if new != old:
            set_argument(node, name, new)

    call.fix(fix)
    return x.new([(*factor, *dim) for factor, dim in zip(outer, padded, strict=True)], alive=axes_of(outer))


@rule(aten.repeat_interleave.self_int)
def repeat_interleave(call: Call) -> Value:
    """Every position several times: [C] becomes [C, r] in one dimension."""
    x = call.value("self")
    if call.raw("dim") is None or call.raw("output_size") is not None:
        raise MisfitError("a flattened tensor, or one of a given size, is repeated")
    at = call.axis("dim", len(x.dims))
    inner = _times(call, call.raw("repeats"), call.shape[at] // max(size(x.dims[at]), 1))

    def fix(node: Node, kept: Kept) -> None:
        if kept.changed(inner):
            set_argument(node, "repeats", kept.size(inner))

    call.fix(fix)
    dims = [*x.dims[:at], (*x.dims[at], *inner), *x.dims[at + 1 :]]
    return x.new(dims, alive=axes_of([inner]))


def _times(call: Call, raw: object, n: int) -> Dim:
    return call.fresh(n) if isinstance(raw, int) else call.constant(n)
