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
    "hardshrink tanhshrink absolute negative fix arcsin arctan arcsinh arctanh atanh erfinv deg2rad rad2deg "
    "special_erf special_erfinv special_expm1 special_log1p special_round"
)
ZERO_TO_OTHER = _words(
    "sigmoid hardsigmoid exp exp2 cos cosh acos arccos softplus log_sigmoid erfc sinc i0 logical_not isnan isinf "
    "isfinite isposinf isneginf signbit bitwise_not special_expit special_exp2 special_sinc special_erfc special_ndtr"
)
SINGULAR_AT_ZERO = _words("log log2 log10 reciprocal rsqrt lgamma digamma logit acosh arccosh special_logit")


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


@rule(aten.clamp.default, aten.clamp_.default, aten.clip.default, aten.clip_.default)
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


@rule(*(op for op in overloads("clamp", "clip", "clamp_min", "clamp_max") if "Tensor" in str(op)))
def clamp_between(call: Call) -> Value:
    """Bounds that are tensors: nothing is assumed about zeros."""
    bounds = [call.maybe(name) for name in ("min", "max")]
    operands = [call.value("self"), *(bound for bound in bounds if bound is not None)]
    out = _together(call, operands, lambda sets: set().union(*sets))
    return out.new(alive=axes_of(out.dims))


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


@rule(*overloads("add", "sub", "subtract", "rsub", "maximum", "minimum", "fmax", "fmin"))
def additive(call: Call) -> Value:
    """Zero where all operands are zero; a number that is not 0 leaves nothing zero."""
    return _together(call, _operands(call), lambda sets: set().union(*sets))


@rule(
    *overloads("eq", "ne", "lt", "le", "gt", "ge"),
    *overloads("not_equal", "less", "less_equal", "greater", "greater_equal"),
    indices=True,
)
def comparison(call: Call) -> Value:
    """Numbers that index the same dimension compare after a cut as before it; nothing is assumed about zeros."""
    operands = _operands(call)
    indexed = [operand.index for operand in operands if isinstance(operand, Value) and operand.index is not None]
    if len(indexed) == 2 and size(indexed[0]) == size(indexed[1]):
        call.unify(indexed[0], indexed[1])
    else:
        call.freeze(indexed, "positions along it are compared with other numbers")
    return other_binary(call)


@rule(
    *overloads("logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor", "isclose"),
    *overloads("atan2", "arctan2", "hypot", "heaviside", "logaddexp", "logaddexp2"),
)
def other_binary(call: Call) -> Value:
    """Position by position; nothing is assumed about zeros."""
    out = _together(call, _operands(call), lambda sets: set().union(*sets))
    return out.new(alive=axes_of(out.dims))


@rule(*overloads("mul", "multiply"))
def multiply(call: Call) -> Value:
    """Zero where either operand is zero."""
    return _together(call, _operands(call), lambda sets: set.intersection(*sets))


@rule(*overloads("div", "divide", "true_divide", "floor_divide", "fmod", "remainder"))
def divide(call: Call) -> Value:
    """Zero where the dividend is zero; a divisor that vanishes forbids the cut."""
    operands = _operands(call)
    if isinstance(operands[1], Value):
        call.divide(operands[1])
    return _together(call, operands, lambda sets: sets[0])


@rule(*overloads("pow", "float_power"))
def power(call: Call) -> Value:
    """x ** y: zero stays zero under a positive number."""
    base, exponent = _operands(call)
    out = _together(call, [base, exponent], lambda sets: sets[0])
    if isinstance(exponent, (int, float)) and exponent > 0:
        return out
    if isinstance(base, Value) and not (isinstance(exponent, (int, float)) and exponent == 0):
        call.divide(base)
    return out.new(alive=axes_of(out.dims))


@rule(*overloads("lerp"))
def interpolate(call: Call) -> Value:
    """self + weight · (end - self): zero where both ends are zero."""
    operands = [_operand(call, name) for name in ("self", "end", "weight")]
    return _together(call, operands, lambda sets: sets[0] | sets[1])


@rule(*overloads("addcmul"))
def add_product(call: Call) -> Value:
    """self + value · tensor1 · tensor2: zero where self and either factor are zero."""
    operands = [_operand(call, name) for name in ("self", "tensor1", "tensor2")]
    return _together(call, operands, lambda sets: sets[0] | (sets[1] & sets[2]))


@rule(*overloads("addcdiv"))
def add_quotient(call: Call) -> Value:
    """self + value · tensor1 / tensor2; a divisor that vanishes forbids the cut."""
    operands = [_operand(call, name) for name in ("self", "tensor1", "tensor2")]
    call.divide(call.value("tensor2"))
    return _together(call, operands, lambda sets: sets[0] | sets[1])


@rule(*overloads("copysign", "xlogy", "special_xlogy", "special_xlog1py"))
def as_first(call: Call) -> Value:
    """Zero where the first operand is zero."""
    return _together(call, _operands(call), lambda sets: sets[0])


@rule(aten.bucketize.Tensor)
def bucketize(call: Call) -> Value:
    """The number of the interval between fixed borders."""
    x = call.value("self")
    call.freeze(call.value("boundaries").dims, "its positions are borders of intervals")
    return x.new(alive=axes_of(x.dims))


@rule(aten.isin.Tensor_Tensor)
def is_among(call: Call) -> Value:
    """Whether every number is one of a set."""
    x = call.value("elements")
    call.freeze(call.value("test_elements").dims, "every number is compared with all of these")
    return x.new(alive=axes_of(x.dims))


@rule(aten.searchsorted.Tensor)
def searchsorted(call: Call) -> Value:
    """The number of the interval between borders that are the same for all."""
    x, borders = call.value("self"), call.value("sorted_sequence")
    if len(borders.dims) != 1:
        raise MisfitError("every row has borders of its own")
    call.freeze(borders.dims, "its positions are borders of intervals")
    return x.new(alive=axes_of(x.dims))


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
    return [_operand(call, name) for name in list(call.arguments)[:2]]


def _together(call: Call, operands: Sequence[Value | float], alive: Callable[[list[set[Axis]]], set[Axis]]) -> Value:
    """Broadcast and unify. `alive` combines, for every operand, the axes along which it does not vanish."""
    shape = call.shape
    values = [operand for operand in operands if isinstance(operand, Value)]
    dims = broadcast(call, values, shape)
    everything = axes_of(dims)
    sets = []
    for operand in operands:
        if isinstance(operand, Value):
            padded = ((),) * (len(shape) - len(operand.dims)) + operand.dims
            stretched = [dim for dim, mine in zip(dims, padded, strict=True) if size(mine) != size(dim)]
            sets.append(atoms(operand.alive) | axes_of(stretched))
        else:
            sets.append(set() if operand == 0 else set(everything))
    main = _main(values, shape)
    return Value(dims, alive(sets), () if main is None else main.origin)


def _main(values: Sequence[Value], shape: Sequence[int]) -> Value | None:
    """Of constants the one that a computed weight stands for: as large as the result, a parameter before a buffer."""
    if not all(value.const for value in values):
        return None
    whole = [value for value in values if value.origin and list(map(size, value.dims)) == list(shape)]
    return min(whole, key=lambda value: bool(value.alive), default=None)


def broadcast(call: Call, values: Sequence[Value], shape: Sequence[int]) -> tuple[Dim, ...]:
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
    main = _main(values, shape)
    for value in values:
        if value is not main:
            _roles(call, value)
    return tuple(out)


def _roles(call: Call, value: Value) -> None:
    for i, dim in enumerate(value.dims):
        if size(dim) > 1:
            call.role(value, i, "scale")
