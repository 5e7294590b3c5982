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


@dataclass(frozen=True)
class Network:
    groups: tuple[Group, ...]
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


def test_of_a_product_one_factor_is_cut() -> None:
    groups = (Group("conv/0", 4), Group("conv/1", 16), Group("conv/2", 16), Group("attn[0:64]/0", 8), Group("mlp", 10))
    plan = kept(Plan.uniform(Network(groups)))
    assert {name: len(units) for name, units in plan.items()} == {"conv/1": 8, "attn[0:64]/0": 4, "mlp": 5}


def test_segments_of_one_factor_are_cut_together() -> None:
    groups = (Group("conv/0[0:6]", 6), Group("conv/0[6:12]", 6), Group("conv/1", 8))
    assert set(kept(Plan.uniform(Network(groups)))) == {"conv/0[0:6]", "conv/0[6:12]"}


def test_keeping_all_decides_nothing_and_names_target_and_network() -> None:
    plan = Plan.uniform(Network((Group("a", 8),)), 1.0, target="edge")
    assert (plan.groups, plan.target, plan.fingerprint) == ((), "edge", "f" * 64)


@pytest.mark.parametrize("keep", [0.0, -0.5, 1.5, float("nan")])
def test_other_shares_are_refused(keep: float) -> None:
    with pytest.raises(ConfigError, match="keep must be above 0"):
        Plan.uniform(Network((Group("a", 8),)), keep)
