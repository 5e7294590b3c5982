"""Normalizations by stored statistics, and dropout."""

import torch

from trimtab.graph.modes import always_on
from trimtab.graph.rules.normalize import mix
from trimtab.graph.rules.table import rule
from trimtab.graph.values import Call, Value, atoms, axes_of

aten = torch.ops.aten


@rule(aten.batch_norm.default)
def batch_norm(call: Call) -> Value:
    """[N, C, *] with weight, bias, running mean and variance [C]; channels stay apart.

    One that takes the statistics of its input in eval mode too (a weight is standardized) is not exact over the others.
    """
    x = call.value("input")
    others = (*x.dims[:1], *x.dims[2:])
    for name in ("weight", "bias", "running_mean", "running_var"):
        value = call.maybe(name)
        if value is not None:
            call.unify(x.dims[1], value.dims[0])
            call.role(value, 0, "norm")
    weight, bias = call.maybe("weight"), call.maybe("bias")
    alive = axes_of(others)
    if always_on(call, "training"):
        mix(call, x, others)
        alive |= atoms(x.alive) & axes_of(x.dims[1:2])
        alive |= set() if bias is None else atoms(bias.alive)
    elif weight is None or bias is None:
        alive |= axes_of(x.dims[1:2])
    else:
        alive |= weight.alive | bias.alive
    return Value(x.dims, alive)


@rule(
    aten.dropout.default,
    aten.dropout_.default,
    aten.feature_dropout.default,
    aten.feature_dropout_.default,
)
def dropout(call: Call) -> Value:
    """Element-wise, and zero stays zero; in eval mode the output is the input itself."""
    x = call.value(_first(call))
    return x.view(x.dims)


@rule(
    aten.alpha_dropout.default,
    aten.alpha_dropout_.default,
    aten.feature_alpha_dropout.default,
    aten.feature_alpha_dropout_.default,
)
def alpha_dropout(call: Call) -> Value:
    """Element-wise; in training zero does not stay zero."""
    x = call.value(_first(call))
    x.alive |= axes_of(x.dims)
    return x.view(x.dims)


def _first(call: Call) -> str:
    """The in-place forms call their input `self`."""
    return "input" if "input" in call.arguments else "self"
