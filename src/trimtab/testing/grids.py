"""What every registered grid promises: codes in range, zero exact, nearest value, idempotent, no division by zero."""

import torch
from torch import Tensor

from trimtab.errors import ConfigError
from trimtab.quant import GRIDS

_ROUNDING = 1e-5  # of the largest value or code: what float32 may lose


def grid_cases(bits: range = range(2, 9)) -> list[tuple[str, int]]:
    """Every registered grid with every one of these widths in bits that it accepts."""
    return [(name, width) for name in GRIDS for width in bits if _accepts(name, width)]


def _accepts(name: str, bits: int) -> bool:
    try:
        GRIDS.load(name)(bits)
    except ConfigError:
        return False
    return True


def check_grid(name: str, bits: int, values: Tensor) -> None:
    """Fit, encode and decode `values` [rows, n] (finite). Raises: AssertionError naming the promise that is broken."""
    grid = GRIDS.load(name)(bits)
    fit = grid.fit(values)
    scale, zero_point = fit.scale, fit.zero_point
    assert scale.shape == zero_point.shape == (len(values),), f"{name}: one scale and zero point a row"
    assert bool((scale > 0).all() and scale.isfinite().all()), f"{name}: scales are positive and finite, got {scale}"
    codes = grid.encode(values, fit)
    assert torch.equal(codes, codes.round()), f"{name}: codes are integers"
    assert bool((codes >= grid.low).all() and (codes <= grid.high).all()), f"{name}: codes lie in [low, high]"
    assert grid.high - grid.low < 2**bits, f"{name}: the codes fit in {bits} bits"
    decoded = grid.decode(codes, fit)
    error = (decoded - values).abs()
    allowed = scale[:, None] * 0.5 + _ROUNDING * values.abs().amax(1, keepdim=True)
    assert bool((error <= allowed).all()), f"{name}: inside the range the nearest value is half a step away at most"
    zero = torch.zeros_like(values)
    exact = grid.decode(grid.encode(zero, fit), fit)
    assert torch.equal(exact, zero), f"{name}: zero is represented exactly"
    again = grid.encode(decoded, fit)
    assert torch.equal(again, codes), f"{name}: decoding and encoding again changes nothing"
    far = values + 1e4 * scale[:, None] * (values.sign() + 0.5)
    clamped = grid.encode(far, fit)
    assert bool((clamped >= grid.low).all() and (clamped <= grid.high).all()), f"{name}: outside the range codes clamp"
