"""Every registered grid keeps its promises; their integers and fits equal brute force and the papers' tables."""

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trimtab.errors import ConfigError
from trimtab.quant import GRIDS
from trimtab.quant.grids import Fit, Grid
from trimtab.quant.grids.codebook import best_integers
from trimtab.quant.grids.search import fit_weights
from trimtab.testing import check_grid, grid_cases

NUMBERS = st.floats(-1e6, 1e6, width=32, allow_nan=False)


@st.composite
def tables(draw: st.DrawFn) -> Tensor:
    columns = draw(st.integers(1, 6))
    rows = draw(st.lists(st.lists(NUMBERS, min_size=columns, max_size=columns), min_size=1, max_size=4))
    return torch.tensor(rows)


def error(grid: Grid, fit: Fit, values: Tensor) -> Tensor:
    """Squared error of each row, in float64."""
    return (grid.decode(grid.encode(values, fit), fit) - values).double().square().sum(1)


@pytest.mark.parametrize(("name", "bits"), grid_cases())
@settings(max_examples=15, deadline=None)
@given(values=tables())
def test_every_grid_conforms(name: str, bits: int, values: Tensor) -> None:
    check_grid(name, bits, values)


@pytest.mark.parametrize(("name", "bits"), [("affine", 16), ("symmetric", 16), ("sign_magnitude", 16)])
def test_sixteen_bits_conform(name: str, bits: int) -> None:
    check_grid(name, bits, torch.randn(3, 40))


@pytest.mark.parametrize(("name", "bits"), grid_cases())
@pytest.mark.parametrize("fill", [0.0, 1.0, -3.5, 1e-38, 1e-45, 1e30])
def test_constant_rows_and_extreme_magnitudes(name: str, bits: int, fill: float) -> None:
    if name == "binary" and abs(fill) < 1e-12:
        assert float(GRIDS.load(name)(bits).fit(torch.full((1, 3), fill)).scale) <= 2e-12
        return
    check_grid(name, bits, torch.full((2, 3), fill))


def test_the_widths_that_each_grid_has() -> None:
    found: dict[str, list[int]] = {}
    for name, bits in grid_cases(range(1, 17)):
        found.setdefault(name, []).append(bits)
    assert found == {
        "additive_power_of_two": list(range(2, 9)),
        "affine": list(range(1, 17)),
        "binary": [1],
        "codebook": list(range(2, 9)),
        "power_of_two": list(range(2, 6)),
        "sign_magnitude": list(range(2, 17)),
        "symmetric": list(range(2, 17)),
        "ternary": [2],
        "trained_ternary": [2],
    }


@pytest.mark.parametrize("name", list(GRIDS))
@pytest.mark.parametrize("bits", [0, 17])
def test_widths_without_codes_are_refused(name: str, bits: int) -> None:
    with pytest.raises(ConfigError, match=f"grid '{name}': bits must be"):
        GRIDS.load(name)(bits)


@pytest.mark.parametrize("name", [name for name in GRIDS if name != "affine"])
def test_weights_can_change_their_sign(name: str) -> None:
    """So that a batch norm with a negative gamma folds: the negated integers are no larger."""
    for _, bits in (case for case in grid_cases() if case[0] == name):
        grid = GRIDS.load(name)(bits)
        assert grid.low == -grid.high


def test_symmetric_codes_change_their_sign_with_the_value() -> None:
    grid = GRIDS.load("symmetric")(8)
    values = torch.randn(4, 30)
    fit = grid.fit(values)
    assert torch.equal(grid.encode(-values, fit), -grid.encode(values, fit))


def test_sign_magnitude_has_the_values_of_symmetric_and_other_codes() -> None:
    values = torch.tensor([[-7.0, -3.0, 0.0, 3.0, 6.6]])
    grid, same = GRIDS.load("sign_magnitude")(4), GRIDS.load("symmetric")(4)
    codes = grid.encode(values, grid.fit(values))
    assert codes.tolist() == [[0b1111, 0b1011, 0b0000, 0b0011, 0b0111]]
    assert torch.equal(
        grid.decode(codes, grid.fit(values)), same.decode(same.encode(values, same.fit(values)), same.fit(values))
    )


@pytest.mark.parametrize(
    ("name", "bits", "magnitudes"),
    [
        ("power_of_two", 2, [1]),
        ("power_of_two", 4, [1, 2, 4, 8, 16, 32, 64]),
        ("additive_power_of_two", 2, [1]),
        ("additive_power_of_two", 3, [1, 2, 4]),
        # As fractions of the largest these are Figure 1 of Li et al., and `build_power_value` of their code.
        ("additive_power_of_two", 4, [1, 2, 3, 4, 6, 8, 10]),
        ("additive_power_of_two", 5, [1, 2, 3, 4, 6, 8, 9, 12, 16, 18, 24, 32, 33, 36, 48]),
        ("ternary", 2, [1]),
    ],
)
def test_integers_of_the_papers(name: str, bits: int, magnitudes: list[int]) -> None:
    assert GRIDS.load(name)(bits).levels == tuple(sorted([*(-m for m in magnitudes), 0, *magnitudes]))


def test_additive_powers_of_five_magnitude_bits() -> None:
    """The paper's code for B = 5, written out: three terms, the last of one bit."""
    first, second, third = (0, 64, 16, 2), (0, 32, 8, 1), (0, 4)
    sums = {a + b + c for a in first for b in second for c in third}
    grid = GRIDS.load("additive_power_of_two")(6)
    assert {abs(level) for level in grid.levels} == sums
    assert grid.high == 100


def test_wide_grids_say_how_far_their_integers_reach() -> None:
    assert [GRIDS.load("power_of_two")(bits).high for bits in (4, 5)] == [64, 16384]
    assert [GRIDS.load("additive_power_of_two")(bits).high for bits in (6, 7)] == [100, 448]


def test_ternary_scale_is_the_best_of_all() -> None:
    values = torch.randn(3, 9)
    grid = GRIDS.load("ternary")(2)
    best = []
    for row in values.double().abs():
        subsets = (row[list(chosen)] for size in range(1, 10) for chosen in combinations(range(9), size))
        best.append(float(row.square().sum()) - max(float(some.sum()) ** 2 / len(some) for some in subsets))
    assert error(grid, grid.fit(values), values).tolist() == pytest.approx(best, rel=1e-4)


def test_ternary_is_not_worse_than_the_rule_of_the_paper() -> None:
    values = torch.randn(5, 300)
    grid = GRIDS.load("ternary")(2)
    kept = values.abs() > 0.7 * values.abs().mean(1, keepdim=True)
    scale = (values.abs() * kept).sum(1) / kept.sum(1)
    rule = (values.sign() * kept * scale[:, None] - values).double().square().sum(1)
    assert bool((error(grid, grid.fit(values), values) <= rule * (1 + 1e-6)).all())


def test_binary_scale_is_the_mean_magnitude() -> None:
    values = torch.randn(4, 50)
    grid = GRIDS.load("binary")(1)
    fit = grid.fit(values)
    assert torch.allclose(grid.decode(grid.encode(values, fit), fit), values.sign() * values.abs().mean(1)[:, None])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 254), min_size=1, max_size=12), st.integers(1, 3))
def test_a_codebook_has_the_best_integers(halves: list[int], count: int) -> None:
    """Against all sets of integers that data of small range can want."""
    sizes = torch.tensor(halves).double() / 2 * (12 / 127)

    def loss(chosen: tuple[int, ...]) -> float:
        return float((sizes[:, None] - torch.tensor((0, *chosen))).abs().amin(1).square().sum())

    least = min(loss(chosen) for chosen in combinations(range(1, 13), count))
    assert loss(tuple(best_integers(sizes, count))) == pytest.approx(least, abs=1e-9)


def test_a_codebook_loses_less_than_even_steps_and_two_magnitudes_less_than_one() -> None:
    values = torch.distributions.Laplace(0.0, 1.0).sample((6, 500))
    for bits in (3, 4, 5):
        book, even = GRIDS.load("codebook")(bits), GRIDS.load("symmetric")(bits)
        assert float(error(book, book.fit(values), values).sum()) < float(error(even, even.fit(values), values).sum())
    skewed = torch.cat([torch.rand(4, 40) * 3, -torch.rand(4, 40)], 1)
    two, one = GRIDS.load("trained_ternary")(2), GRIDS.load("ternary")(2)
    assert float(error(two, two.fit(skewed), skewed).sum()) < float(error(one, one.fit(skewed), skewed).sum())


@pytest.mark.parametrize(("name", "bits"), grid_cases())
def test_the_searched_scale_is_never_worse(name: str, bits: int) -> None:
    values = torch.randn(5, 80) * torch.tensor([1e-6, 0.02, 1.0, 50.0, 1e6])[:, None]
    values[2, 3] = 40.0
    grid = GRIDS.load(name)(bits)
    before, after = (error(grid, fit, values) for fit in (grid.fit(values), fit_weights(grid, values)))
    assert bool((after <= before * (1 + 1e-5)).all())
    if bits == 2 and grid.uniform:
        assert float((after / before).mean()) < 0.8


def test_tables_that_training_moved_are_put_in_form() -> None:
    book, two = GRIDS.load("codebook")(3), GRIDS.load("trained_ternary")(2)
    moved = torch.tensor([-140.0, -3.0, -9.0, 5.0, 8.0, 30.0, 130.0])
    table = book.tied(moved)
    assert torch.equal(table, -table.flip(0))
    assert bool((table.diff() >= 0).all())
    assert float(table.max()) == 127.0
    assert two.tied(torch.tensor([4.0, 2.0, 200.0])).tolist() == [-1.0, 0.0, 127.0]
