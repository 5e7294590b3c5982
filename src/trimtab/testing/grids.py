"""What every registered grid promises: integers in its limits, the nearest value, zero exact, a positive scale."""

import torch
from torch import Tensor

from trimtab.errors import ConfigError
from trimtab.quant import GRIDS
from trimtab.quant.grids import Fit, Grid

_ROUNDING = 1e-5  # of the largest value or code: what float32 may lose
_MOST_INTEGERS = 2**10  # that a value is compared with


def grid_cases(bits: range = range(1, 9)) -> list[tuple[str, int]]:
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
    _check_fit(name, grid, fit, len(values))
    codes = grid.encode(values, fit)
    assert torch.equal(codes, codes.round()), f"{name}: codes are integers"
    integers = grid.integers(codes, fit)
    assert torch.equal(integers, integers.round()), f"{name}: a code names an integer"
    assert _inside(grid, integers), f"{name}: integers lie in [low, high]"
    decoded = grid.decode(codes, fit)
    meant = fit.scale[:, None] * (integers - fit.zero_point[:, None])
    assert torch.allclose(decoded, meant), f"{name}: a value is scale · (integer − zero point)"
    again = grid.integers(grid.encode(decoded, fit), fit)
    assert torch.equal(again, integers), f"{name}: decoding and encoding again changes nothing"
    far = values + 1e4 * fit.scale[:, None] * (values.sign() + 0.5)
    assert _inside(grid, grid.integers(grid.encode(far, fit), fit)), f"{name}: outside the range codes clamp"
    _check_zero(name, grid, fit, values)
    _check_nearest(name, grid, fit, values, decoded)


def _check_fit(name: str, grid: Grid, fit: Fit, rows: int) -> None:
    assert fit.scale.shape == fit.zero_point.shape == (rows,), f"{name}: one scale and zero point a row"
    positive = bool((fit.scale > 0).all() and fit.scale.isfinite().all())
    assert positive, f"{name}: scales are positive and finite, got {fit.scale}"
    assert not grid.signed or not bool(fit.zero_point.any()), f"{name}: a signed grid has zero points of 0"
    if fit.table is not None:
        assert bool((fit.table.diff() >= 0).all()), f"{name}: a table ascends"
        assert torch.equal(fit.table, fit.table.round()), f"{name}: a table has integers"
        assert len(fit.table) <= 2**grid.bits, f"{name}: a table has as many entries as there are codes"
    if grid.uniform:
        assert grid.high - grid.low < 2**grid.bits, f"{name}: the integers fit in {grid.bits} bits"


def _inside(grid: Grid, integers: Tensor) -> bool:
    return bool((integers >= grid.low).all() and (integers <= grid.high).all())


def _check_zero(name: str, grid: Grid, fit: Fit, values: Tensor) -> None:
    zero = torch.zeros_like(values)
    exact = grid.decode(grid.encode(zero, fit), fit)
    assert torch.equal(exact, zero) is grid.zero, f"{name}: zero is represented exactly if the grid says so"


def _check_nearest(name: str, grid: Grid, fit: Fit, values: Tensor, decoded: Tensor) -> None:
    """No integer of the grid lies nearer than the one that was chosen."""
    if grid.high - grid.low >= _MOST_INTEGERS:
        return
    every = torch.arange(grid.low, grid.high + 1).to(values.dtype).expand(len(values), -1)
    table = fit.scale[:, None] * (every - fit.zero_point[:, None])
    members = grid.integers(grid.encode(table, fit), fit) == every
    assert int(members.sum(1).max()) <= 2**grid.bits, f"{name}: {grid.bits} bits name at most {2**grid.bits} values"
    distances = (values[:, :, None] - table[:, None, :]).abs()
    nearest = torch.where(members[:, None, :], distances, torch.inf).amin(2)
    lost = _ROUNDING * (values.abs().amax(1, keepdim=True) + fit.scale[:, None])
    assert bool(((decoded - values).abs() <= nearest + lost).all()), f"{name}: a value goes to the nearest one"
    if grid.uniform:
        within = (decoded - values).abs() <= fit.scale[:, None] / 2 + lost
        assert bool(within.all()), f"{name}: inside the range the nearest value is half a step away at most"
