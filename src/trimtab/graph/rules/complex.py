"""Complex numbers and Fourier transforms: transformed dimensions are frozen, the others pass."""

import torch

from trimtab.graph.axes import size
from trimtab.graph.rules.table import rule
from trimtab.graph.values import Call, Value, atoms, axes_of

aten = torch.ops.aten

TRANSFORMED = "a Fourier transform mixes positions of this dimension"


@rule(aten.complex.default, aten.polar.default)
def complex_(call: Call) -> Value:
    """Real and imaginary parts, or lengths and angles, of one shape: zero where both, or the lengths, are zero."""
    a, b = (call.value(name) for name in call.arguments)
    for mine, theirs in zip(a.dims, b.dims, strict=True):
        call.unify(mine, theirs)
    return a.new(alive=() if "polar" in call.operator else b.alive)


@rule(
    aten.real.default,
    aten.imag.default,
    aten.conj.default,
    aten._conj.default,
    aten.resolve_conj.default,
    aten.resolve_neg.default,
)
def part(call: Call) -> Value:
    """A part of every number, or its conjugate: the same memory."""
    x = call.value("self" if "self" in call.arguments else "input")
    return x.view(x.dims)


@rule(aten.angle.default, aten.conj_physical.default)
def of_every_number(call: Call) -> Value:
    """Zero for zero."""
    return call.value("self").new()


@rule(aten.view_as_real.default)
def view_as_real(call: Call) -> Value:
    """A last dimension for both parts."""
    x = call.value("self")
    return x.view([*x.dims, call.constant(2)])


@rule(aten.view_as_complex.default)
def view_as_complex(call: Call) -> Value:
    """The last dimension, of both parts, goes."""
    x = call.value("self")
    call.freeze(x.dims[-1:], "it holds real and imaginary parts")
    return x.view(x.dims[:-1])


@rule(
    aten.fft_fft.default,
    aten.fft_ifft.default,
    aten.fft_rfft.default,
    aten.fft_irfft.default,
    aten.fft_hfft.default,
    aten.fft_ihfft.default,
    aten.fft_fft2.default,
    aten.fft_ifft2.default,
    aten.fft_rfft2.default,
    aten.fft_irfft2.default,
    aten.fft_fftn.default,
    aten.fft_ifftn.default,
    aten.fft_rfftn.default,
    aten.fft_irfftn.default,
    aten.fft_fftshift.default,
    aten.fft_ifftshift.default,
)
def transform(call: Call) -> Value:
    """Sums over whole dimensions; zero stays zero along the others."""
    x = call.value("self")
    at = _transformed(call, len(x.dims))
    call.freeze([x.dims[i] for i in at], TRANSFORMED)
    dims = [call.constant(call.shape[i]) if i in at else dim for i, dim in enumerate(x.dims)]
    return Value(tuple(dims), atoms(x.alive) & axes_of(dim for dim in dims if size(dim) > 1))


def _transformed(call: Call, rank: int) -> set[int]:
    raw = call.raw("dim")
    if raw is None:
        sizes = call.arguments.get("s")
        return set(range(rank - len(sizes) if sizes is not None else 0, rank))
    return {d % rank for d in (raw if isinstance(raw, (list, tuple)) else [raw])}
