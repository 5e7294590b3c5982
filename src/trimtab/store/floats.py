"""Floats as they are, bit for bit: exponents and signs by what is usual among them, mantissas as long as they need be.

Whoever rounds them to few bits first (`rounded`) gets few bytes.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trimtab.store.integers import Coder, Integers, code_integers, code_one

_LENGTH_BITS = 6


class _Format(NamedTuple):
    """Bits of exponent and mantissa, and the integers that have as many bits in all."""

    exponent: int
    mantissa: int
    integer: torch.dtype


_FORMATS = {
    torch.float16: _Format(5, 10, torch.int16),
    torch.bfloat16: _Format(8, 7, torch.int16),
    torch.float32: _Format(8, 23, torch.int32),
    torch.float64: _Format(11, 52, torch.int64),
}
DTYPES = frozenset(_FORMATS)


def rounded(values: Tensor, bits: int) -> Tensor:
    """The nearest floats with a mantissa of `bits` bits: each moves by at most 2^-(bits + 1) of itself."""
    if bits >= _FORMATS[values.dtype].mantissa or not values.numel():
        return values.clone()
    fraction, exponent = torch.frexp(values.double())
    fraction = (fraction * 2.0 ** (bits + 1)).round() / 2.0 ** (bits + 1)
    near = torch.ldexp(fraction, exponent).to(values.dtype)
    return torch.where(values.isfinite() & near.isfinite(), near, values)


def code_floats(coder: Coder, values: Tensor, columns: int) -> Tensor:
    """Write `values` [n], or read as many into them. Returns: them."""
    size, (exponent_bits, mantissa_bits, integer) = len(values), _FORMATS[values.dtype]
    if not size:
        return values
    bits = values.detach().contiguous().view(integer).numpy()
    alike = bool(code_one(coder, int(bool((bits == bits[0]).all())), 1))
    if alike and size > 1:
        return code_floats(coder, values[:1], 1).expand(size).clone()
    length = code_one(coder, _needed(bits, mantissa_bits), _LENGTH_BITS)
    all_exponents, all_mantissas = (1 << exponent_bits) - 1, (1 << mantissa_bits) - 1
    exponents = ((bits >> mantissa_bits) & all_exponents).astype(np.int16)
    usual = code_one(coder, int(np.median(exponents)), exponent_bits)
    signs = code_integers(coder, (bits < 0).view(np.int8), columns)
    exponents = code_integers(coder, exponents - np.int16(usual), columns) + np.int16(usual)
    free = mantissa_bits - min(length, mantissa_bits)
    mantissas = coder.numbers((bits & all_mantissas) >> free, mantissa_bits - free, size)
    found = signs.astype(bits.dtype) << (exponent_bits + mantissa_bits)
    found |= (exponents & all_exponents).astype(bits.dtype) << mantissa_bits
    found |= mantissas.astype(bits.dtype) << free
    return torch.from_numpy(found).view(values.dtype)


def _needed(bits: Integers, mantissa: int) -> int:
    """How many leading bits of the mantissas are not all zero."""
    used = int(np.bitwise_or.reduce(bits)) & ((1 << mantissa) - 1)
    return mantissa - ((used & -used).bit_length() - 1) if used else 0
