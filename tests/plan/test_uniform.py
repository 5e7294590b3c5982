"""A cut without data: shares, multiples, evenly spread units, and products that do not compound."""

from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import ConfigError
from trimtab.plan import Plan


@dataclass(frozen=True)
class Group:
    name: str
    width: int
    multiple_of: int = 1
    at_least: int = 1


@dataclass(frozen=True)
class Network:
    groups: tuple[Group, ...]
    products: tuple[tuple[tuple[str, ...], ...], ...] = ()
    fingerprint: str = "f" * 64


def kept(plan: Plan) -> dict[str, tuple[int, ...]]:
    return {decision.group: decision.kept for decision in plan.groups}


@given(st.integers(1, 12), st.integers(1, 300), st.floats(0.01, 1))
def test_the_share_is_kept_to_the_nearest_multiple(step: int, steps: int, keep: float) -> None:
    width = step * steps
    units = kept(Plan.uniform(Network((Group("a", width, step),)), keep)).get("a", tuple(range(width)))
    assert len(units) % step == 0
    assert 0 < len(units) <= width
    assert abs(len(units) - keep * width) <= max(step / 2, step - keep * width) + 1e-9
    gaps = [b - a for a, b in pairwise(units)]
    assert all(gap > 0 for gap in gaps)
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert 0 <= units[0] <= units[-1] < width


def test_units_are_evenly_spread() -> None:
    assert kept(Plan.uniform(Network((Group("a", 8), Group("b", 9)))))["a"] == (1, 3, 5, 7)
    assert kept(Plan.uniform(Network((Group("a", 100),)), 0.03))["a"] == (16, 50, 83)


def test_no_fewer_are_kept_than_a_group_needs() -> None:
    groups = (Group("experts", 8, at_least=2), Group("both", 12, 4, at_least=5))
    assert {name: len(units) for name, units in kept(Plan.uniform(Network(groups), 0.1)).items()} == {
        "experts": 2,
        "both": 8,
    }


def test_of_a_product_the_factor_nearest_to_the_share_is_cut_of_equals_the_outermost() -> None:
    groups = (Group("heads", 4), Group("query", 16), Group("three", 3), Group("inner", 8), Group("mlp", 10))
    plan = kept(Plan.uniform(Network(groups, ((("heads",), ("query",)), (("three",), ("inner",))))))
    assert {name: len(units) for name, units in plan.items()} == {"heads": 2, "inner": 4, "mlp": 5}


def test_a_factor_chosen_once_is_chosen_in_every_product() -> None:
    groups = (Group("heads", 3), Group("query", 3), Group("value", 8))
    plan = kept(Plan.uniform(Network(groups, ((("heads",), ("query",)), (("heads",), ("value",))))))
    assert set(plan) == {"heads"}


def test_segments_of_one_factor_are_cut_together() -> None:
    groups = (Group("a", 6), Group("b", 6), Group("inner", 8))
    assert set(kept(Plan.uniform(Network(groups, ((("a", "b"), ("inner",)),))))) == {"a", "b"}


factors = st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=4, unique=True)


@given(st.lists(factors, max_size=6), st.lists(st.integers(2, 40), min_size=8, max_size=8), st.floats(0.1, 1))
def test_no_product_loses_in_two_factors(drawn: list[list[str]], sizes: list[int], keep: float) -> None:
    products = tuple(tuple((name,) for name in product) for product in drawn)
    groups = tuple(Group(name, width) for name, width in zip("abcdefgh", sizes, strict=True))
    cut = set(kept(Plan.uniform(Network(groups, products), keep)))
    for product in drawn:
        assert len(cut.intersection(product)) <= 1


def test_keeping_all_decides_nothing_and_names_target_and_network() -> None:
    plan = Plan.uniform(Network((Group("a", 8),)), 1.0, target="edge")
    assert (plan.groups, plan.target, plan.fingerprint) == ((), "edge", "f" * 64)


@pytest.mark.parametrize("keep", [0.0, -0.5, 1.5, float("nan")])
def test_other_shares_are_refused(keep: float) -> None:
    with pytest.raises(ConfigError, match="keep must be above 0"):
        Plan.uniform(Network((Group("a", 8),)), keep)
