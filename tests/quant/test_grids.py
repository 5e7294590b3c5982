"""Every registered grid keeps its promises; the two that exist also equal brute force."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trimtab.errors import ConfigError
from trimtab.quant import GRIDS
from trimtab.testing import check_grid, grid_cases

NUMBERS = st.floats(-1e6, 1e6, width=32, allow_nan=False)


@st.composite
def tables(draw: st.DrawFn) -> Tensor:
    columns = draw(st.integers(1, 6))
    rows = draw(st.lists(st.lists(NUMBERS, min_size=columns, max_size=columns), min_size=1, max_size=4))
    return torch.tensor(rows)


@pytest.mark.parametrize(("name", "bits"), grid_cases())
@settings(max_examples=25, deadline=None)
@given(values=tables())
def test_every_grid_conforms(name: str, bits: int, values: Tensor) -> None:
    check_grid(name, bits, values)


@pytest.mark.parametrize(("name", "bits"), grid_cases())
@pytest.mark.parametrize("fill", [0.0, 1.0, -3.5, 1e-38, 1e-45, 1e30])
def test_constant_rows_and_extreme_magnitudes(name: str, bits: int, fill: float) -> None:
    check_grid(name, bits, torch.full((2, 3), fill))


def test_every_width_from_2_to_8_is_there() -> None:
    assert {(name, bits) for name in GRIDS for bits in range(2, 9)} == set(grid_cases())


@pytest.mark.parametrize(("name", "bits"), [("symmetric", 1), ("symmetric", 17), ("affine", 0), ("affine", 17)])
def test_widths_without_codes_are_refused(name: str, bits: int) -> None:
    with pytest.raises(ConfigError, match=f"grid '{name}': bits must be"):
        GRIDS.load(name)(bits)


@pytest.mark.parametrize(("name", "bits"), grid_cases(range(2, 6)))
def test_encode_picks_the_nearest_of_all_values(name: str, bits: int) -> None:
    grid = GRIDS.load(name)(bits)
    values = torch.randn(3, 50) * torch.tensor([0.01, 1.0, 300.0])[:, None]
    fit = grid.fit(values)
    every = torch.arange(grid.low, grid.high + 1).float().expand(3, -1)
    table = grid.decode(every, fit)
    nearest = (values[:, :, None] - table[:, None, :]).abs().amin(2)
    mine = (grid.decode(grid.encode(values, fit), fit) - values).abs()
    assert torch.allclose(mine, nearest, rtol=1e-4, atol=1e-6 * float(values.abs().max()))


def test_symmetric_codes_can_change_their_sign() -> None:
    grid = GRIDS.load("symmetric")(8)
    values = torch.randn(4, 30)
    fit = grid.fit(values)
    assert torch.equal(grid.encode(-values, fit), -grid.encode(values, fit))
