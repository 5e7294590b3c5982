"""Tables: rows are looked up by number, and the width of a row is an axis that a layer makes."""

import torch

from trimtab.graph.rules.contract import along
from trimtab.graph.rules.table import rule
from trimtab.graph.values import Call, Value

aten = torch.ops.aten

BY_NUMBER = "rows of a table are looked up by number"


@rule(aten.embedding.default, indices=True)
def embedding(call: Call) -> Value:
    """Rows of weight [V, D] picked by indices [*] give [*, D]."""
    weight, indices = call.value("weight"), call.value("indices")
    call.look_up(weight.dims[0], indices, BY_NUMBER)
    call.freeze(indices.dims, "indices are looked up in a table")
    call.produce(weight, 1)
    return Value((*indices.dims, weight.dims[1]), along(weight, weight.dims[1:]), index=weight.index)


@rule(aten.embedding_renorm_.default)
def embedding_renorm(call: Call) -> Value:
    """Rows of weight [V, D] that are looked up and longer than the limit are scaled to it, in place."""
    weight, indices = call.value("self"), call.value("indices")
    call.freeze(weight.dims[:1], BY_NUMBER)
    call.freeze(indices.dims, "indices are looked up in a table")
    call.contract(weight.dims[1], (weight,), "a row's length counts removed positions that are not zero")
    if float(call.raw("norm_type")) <= 0:
        call.freeze(weight.dims[1:], "a row's length depends on every position")
    return weight


@rule(aten.embedding_bag.default, aten.embedding_bag.padding_idx)
def embedding_bag(call: Call) -> list[Value]:
    """Rows of weight [V, D] picked by indices and summed, averaged or maximized over bags give [B, D].

    The other results number the bags, their sizes and, for the maximum, the rows [B, D] that were the largest.
    """
    weight = call.value("weight")
    call.freeze(weight.dims[:1], BY_NUMBER)
    for name in ("indices", "offsets", "per_sample_weights"):
        value = call.maybe(name)
        if value is not None:
            call.freeze(value.dims, "it says what is in a bag")
    call.produce(weight, 1)
    bags, *counts = call.shapes
    out = Value((call.constant(bags[0]), weight.dims[1]), along(weight, weight.dims[1:]))
    rest = [Value(tuple(call.constant(n) for n in shape)) for shape in counts]
    if call.raw("mode") == 2:
        rest[-1] = Value((call.constant(counts[-1][0]), weight.dims[1]), set(out.alive))
    return [out, *rest]
