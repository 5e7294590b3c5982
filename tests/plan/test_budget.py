import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import ConfigError
from trimtab.plan import Budget, Limit
from trimtab.plan.budget import parse_limit

POSITIVE = st.floats(min_value=1e-6, max_value=1e9, allow_nan=False)


@pytest.mark.parametrize(
    ("quantity", "text", "at_most", "relative"),
    [
        ("drop", "0.01", 0.01, False),
        ("drop", "1%", 0.01, False),
        ("drop", "0", 0.0, False),
        ("size", "10%", 0.1, True),
        ("size", "64kB", 64e3, False),
        ("size", "64 KiB", 65536, False),
        ("size", "1.5MB", 1.5e6, False),
        ("latency", "0.5x", 0.5, True),
        ("latency", "2ms", 2.0, False),
        ("latency", "250us", 0.25, False),
        ("latency", "1s", 1000.0, False),
        ("macs", "50M", 50e6, False),
        ("bops", "1e9", 1e9, False),
        ("memory", "64MB", 64e6, False),
    ],
)
def test_units(quantity, text, at_most, relative):
    limit = parse_limit(quantity, text)
    assert limit.at_most == pytest.approx(at_most)
    assert limit.relative is relative


@pytest.mark.parametrize(
    ("quantity", "text"),
    [
        ("drop", "-0.01"),
        ("drop", "nan"),
        ("drop", "0.5x"),
        ("size", "10 percent"),
        ("size", "64"),
        ("size", ""),
        ("size", "0%"),
        ("latency", "2"),
        ("latency", "2kB"),
        ("macs", "50 MB"),
        ("drop", "1e999"),
    ],
)
def test_what_cannot_be_read_shows_what_would_be_right(quantity, text):
    with pytest.raises(ConfigError, match=rf"budget: .*{quantity} .*(write it like|such as)"):
        parse_limit(quantity, text)


def test_an_unknown_quantity_lists_the_known_ones():
    with pytest.raises(ConfigError, match="known: drop, size, latency"):
        parse_limit("colour", "3")


@given(fraction=POSITIVE, baseline=POSITIVE)
def test_a_relative_bound_scales_and_an_absolute_one_does_not(fraction, baseline):
    relative = Limit(quantity="size", at_most=fraction, relative=True)
    assert math.isclose(relative.bound(baseline), fraction * baseline)
    assert Limit(quantity="size", at_most=fraction).bound(baseline) == fraction


@given(
    st.dictionaries(st.sampled_from(["drop", "macs", "bops"]), POSITIVE, min_size=1),
    st.none() | st.integers(1, 99).map("{}%".format),
)
def test_json_gives_the_same_budget_back(limits, size):
    budget = Budget(**limits, size=size)
    assert Budget.from_json(budget.to_json(), where="budget.json") == budget


def test_a_budget_that_limits_nothing_or_twice_is_refused():
    with pytest.raises(ConfigError, match="nothing is limited"):
        Budget()
    with pytest.raises(ConfigError, match="size is limited twice"):
        Budget(size="10%", limits=(Limit(quantity="size", at_most=1000.0),))


def test_limit_finds_the_quantity():
    budget = Budget(drop=0.01, size="10%")
    assert budget.limit("size") == Limit(quantity="size", at_most=0.1, relative=True)
    assert budget.limit("latency") is None
    assert str(budget) == "drop ≤ 0.01, size ≤ 0.1x"
