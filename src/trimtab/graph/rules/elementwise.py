"""Element-wise operators: one input, or several that broadcast."""

from collections.abc import Callable, Sequence

import torch

from trimtab.graph.axes import Axis, Dim, MisfitError, size
from trimtab.graph.rules.table import rule
from trimtab.graph.values import Call, Value, atoms, axes_of

aten = torch.ops.aten


def overloads(*names: str) -> list[object]:
    """Every overload of the named operators and of their in-place forms, but those that write into `out`."""
    found: list[object] = []
    for name in names:
        for form in (name, name + "_"):
            packet = getattr(aten, form, None)
            if packet is not None:
                found += [getattr(packet, o) for o in packet.overloads() if o != "out" and not o.endswith("_out")]
    return found


def _first(call: Call) -> Value:
    return call.value(next(iter(call.arguments)))


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ZERO_TO_ZERO = _words(
    "relu relu6 tanh gelu silu hardswish leaky_relu elu selu celu mish abs neg sin tan asin atan sinh "
    "asinh erf sqrt square sign sgn round floor ceil trunc frac expm1 log1p rrelu nan_to_num softshrink "
    "hardshrink tanhshrink"
)
ZERO_TO_OTHER = _words(
    "sigmoid hardsigmoid exp exp2 cos cosh acos softplus log_sigmoid erfc logical_not isnan isinf bitwise_not"
)
SINGULAR_AT_ZERO = _words("log log2 log10 reciprocal rsqrt lgamma digamma")


def _unary_overloads(names: Sequence[str]) -> list[object]:
    return [op for op in overloads(*names) if "Tensor" in str(op._schema.arguments[0].type)]  # type: ignore[attr-defined]


@rule(*_unary_overloads(ZERO_TO_ZERO))
def zero_to_zero(call: Call) -> Value:
    """f(0) = 0, so what was zero stays zero."""
    return _first(call).new()


@rule(*_unary_overloads(ZERO_TO_OTHER))
def zero_to_other(call: Call) -> Value:
    """f(0) is not 0, so removed units become non-zero in the masked network."""
    x = _first(call)
    return x.new(alive=axes_of(x.dims))


@rule(*_unary_overloads(SINGULAR_AT_ZERO))
def singular(call: Call) -> Value:
    """f(0) is not finite."""
    x = _first(call)
    call.divide(x)
    return x.new(alive=axes_of(x.dims))


@rule(aten.hardtanh.default, aten.hardtanh_.default)
def hardtanh(call: Call) -> Value:
    """Zero stays zero when it lies between the bounds."""
    return _clamped(call, call.raw("min_val"), call.raw("max_val"))


@rule(aten.clamp.default, aten.clamp_.default)
def clamp(call: Call) -> Value:
    """Zero stays zero when it lies between the bounds."""
    return _clamped(call, call.raw("min"), call.raw("max"))


@rule(aten.clamp_min.default, aten.clamp_min_.default)
def clamp_min(call: Call) -> Value:
    """Zero stays zero when the bound is not above it."""
    return _clamped(call, call.raw("min"), None)


@rule(aten.clamp_max.default, aten.clamp_max_.default)
def clamp_max(call: Call) -> Value:
    """Zero stays zero when the bound is not below it."""
    return _clamped(call, None, call.raw("max"))


def _clamped(call: Call, low: float | None, high: float | None) -> Value:
    x = _first(call)
    keeps_zero = (low is None or low <= 0) and (high is None or high >= 0)
    return x.new(alive=() if keeps_zero else axes_of(x.dims))


@rule(aten.threshold.default, aten.threshold_.default)
def threshold(call: Call) -> Value:
    """x where x is above the threshold, else the value."""
    x = _first(call)
    keeps_zero = call.raw("value") == 0 or call.raw("threshold") < 0
    return x.new(alive=() if keeps_zero else axes_of(x.dims))


@rule(aten.prelu.default)
def prelu(call: Call) -> Value:
    """Slopes [1] or [C], one for dimension 1."""
    x, weight = call.value("self"), call.value("weight")
    if size(weight.dims[0]) > 1:
        call.unify(x.dims[1 if len(x.dims) > 1 else 0], weight.dims[0])
        call.role(weight, 0, "scale")
    return x.new()


@rule(*overloads("add", "sub", "rsub", "maximum", "minimum", "fmax", "fmin"))
def additive(call: Call) -> Value:
    """Zero where all operands are zero; a number that is not 0 leaves nothing zero."""
    return _together(call, _operands(call), lambda sets: set().union(*sets))


@rule(*overloads("eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor", "atan2", "hypot"))
def other_binary(call: Call) -> Value:
    """Position by position; nothing is assumed about zeros."""
    out = _together(call, _operands(call), lambda sets: set().union(*sets))
    return out.new(alive=axes_of(out.dims))


@rule(aten.mul.Tensor, aten.mul_.Tensor, aten.mul.Scalar, aten.mul_.Scalar)
def multiply(call: Call) -> Value:
    """Zero where either operand is zero."""
    return _together(call, _operands(call), lambda sets: set.intersection(*sets))


@rule(*overloads("div", "true_divide", "floor_divide", "fmod", "remainder"))
def divide(call: Call) -> Value:
    """Zero where the dividend is zero; a divisor that vanishes forbids the cut."""
    operands = _operands(call)
    if isinstance(operands[1], Value):
        call.divide(operands[1])
    return _together(call, operands, lambda sets: sets[0])


@rule(*overloads("pow"))
def power(call: Call) -> Value:
    """x ** y: zero stays zero under a positive number."""
    base, exponent = _operands(call)
    out = _together(call, [base, exponent], lambda sets: sets[0])
    if isinstance(exponent, (int, float)) and exponent > 0:
        return out
    if isinstance(base, Value) and not (isinstance(exponent, (int, float)) and exponent == 0):
        call.divide(base)
    return out.new(alive=axes_of(out.dims))


@rule(aten.where.self, aten.where.ScalarSelf, aten.where.ScalarOther, aten.where.Scalar)
def where(call: Call) -> Value:
    """Zero where both choices are zero."""
    choices = [_operand(call, name) for name in ("self", "other")]
    condition = call.value("condition")
    return _together(call, [*choices, condition], lambda sets: sets[0] | sets[1])


@rule(*overloads("masked_fill"))
def masked_fill(call: Call) -> Value:
    """Zero stays zero when the filling is 0."""
    filling = _operand(call, "value")
    operands: list[Value | float] = [call.value("self"), filling, call.value("mask")]
    return _together(call, operands, lambda sets: sets[0] | sets[1])


@rule(aten.copy.default, aten.copy_.default)
def copy(call: Call) -> Value:
    """The source, broadcast to the destination."""
    destination, source = call.value("self"), call.value("src")
    return _together(call, [destination, source], lambda sets: sets[1])


@rule(aten.zero_.default)
def zero(call: Call) -> Value:
    """Zeros in place."""
    return call.value("self")


@rule(*overloads("fill"))
def fill(call: Call) -> Value:
    """One number in place."""
    x = call.value("self")
    return x.new(alive=axes_of(x.dims))


def _operand(call: Call, name: str) -> Value | float:
    value = call.maybe(name)
    if value is not None:
        return value
    raw = call.raw(name)
    if isinstance(raw, (int, float)):
        return raw
    return 1.0  # a number that is computed: taken for one that is not 0


def _operands(call: Call) -> list[Value | float]:
    names = ["self", "exponent"] if "exponent" in call.arguments else ["self", "other"]
    return [_operand(call, name) for name in names]


def _together(call: Call, operands: Sequence[Value | float], alive: Callable[[list[set[Axis]]], set[Axis]]) -> Value:
    """Broadcast and unify. `alive` combines, for every operand, the axes along which it does not vanish."""
    shape = call.shape
    dims = _broadcast(call, [v for v in operands if isinstance(v, Value)], shape)
    everything = axes_of(dims)
    sets = []
    for operand in operands:
        if isinstance(operand, Value):
            padded = ((),) * (len(shape) - len(operand.dims)) + operand.dims
            stretched = [dim for dim, mine in zip(dims, padded, strict=True) if size(mine) != size(dim)]
            sets.append(atoms(operand.alive) | axes_of(stretched))
        else:
            sets.append(set() if operand == 0 else set(everything))
    return Value(dims, alive(sets))


def _broadcast(call: Call, values: Sequence[Value], shape: Sequence[int]) -> tuple[Dim, ...]:
    """The output dimensions of values that broadcast to `shape`, unified where they meet."""
    out: list[Dim] = []
    for i, n in enumerate(shape):
        at = [value.dims[i - len(shape)] for value in values if len(value.dims) >= len(shape) - i]
        meeting = [dim for dim in at if size(dim) == n]
        if not meeting:
            raise MisfitError(f"no operand has the {n} positions of dimension {i}")
        for dim in meeting[1:]:
            call.unify(meeting[0], dim)
        out.append(meeting[0])
    for value in values:
        _roles(call, value)
    return tuple(out)


def _roles(call: Call, value: Value) -> None:
    for i, dim in enumerate(value.dims):
        if size(dim) > 1:
            call.role(value, i, "scale")
