import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import ConfigError
from trimtab.plan import (
    PER_CHANNEL,
    BranchDecision,
    Drop,
    GroupDecision,
    LayerDecision,
    Measurement,
    NofM,
    Plan,
    Scheme,
    Target,
    Tiles,
    Weights,
)

NAMES = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8)
SCHEMES = st.builds(
    Scheme, bits=st.integers(1, 16), granularity=st.tuples(st.just(-1) | st.integers(1, 64), st.just(-1))
)
SPARSITIES = st.one_of(
    st.builds(Weights, fraction=st.floats(0.01, 0.99)),
    st.integers(1, 7).map(lambda kept: NofM(kept=kept, of=8)),
    st.builds(Tiles, shape=st.tuples(st.integers(1, 8), st.integers(1, 8)), fraction=st.floats(0.01, 0.99)),
)
PLANS = st.builds(
    Plan,
    fingerprint=NAMES,
    target=NAMES,
    seed=st.integers(0, 2**31),
    groups=st.lists(
        st.builds(
            GroupDecision,
            group=NAMES,
            kept=st.sets(st.integers(0, 99), min_size=1).map(lambda kept: tuple(sorted(kept))),
        ),
        unique_by=lambda decision: decision.group,
    ).map(tuple),
    layers=st.lists(
        st.builds(
            LayerDecision,
            layer=NAMES,
            sparsity=st.none() | SPARSITIES,
            weight=st.none() | SCHEMES,
            activation=st.none() | SCHEMES,
        ),
        unique_by=lambda decision: decision.layer,
    ).map(tuple),
)


@given(PLANS)
def test_a_plan_comes_back_from_its_json(plan):
    text = plan.to_json()
    again = Plan.from_json(text, where="plan.json")
    assert again == plan
    assert again.to_json() == text
    assert json.loads(text)["schema"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groupz": []}, r"plan\.json: groupz: "),
        ({"schema": 2}, r"plan\.json: schema: .*got 2"),
        ({"seed": "0"}, r"plan\.json: seed: .*got '0'"),
        ({"groups": [{"group": "a", "kept": []}]}, r"groups\.0\.kept"),
        ({"groups": [{"group": "a", "kept": [3, 1]}]}, "sorted and distinct"),
        ({"groups": [{"group": "a", "kept": [-1, 1]}]}, r"groups\.0\.kept\.0"),
        ({"groups": [{"group": "a", "kept": [1]}] * 2}, "group 'a' is decided more than once"),
        ({"layers": [{"layer": "a", "weight": {"bits": 0}}]}, r"layers\.0\.weight\.bits"),
        ({"layers": [{"layer": "a", "sparsity": {"kind": "n_of_m", "kept": 4, "of": 4}}]}, "0 < kept < of"),
        ({"layers": [{"layer": "a", "sparsity": {"kind": "lottery"}}]}, r"layers\.0\.sparsity"),
    ],
)
def test_a_wrong_plan_is_refused_in_one_line_that_says_where(change, message):
    data = {"schema": 1, "fingerprint": "f", "target": "t"} | change
    with pytest.raises(ConfigError, match=message) as caught:
        Plan.from_json(json.dumps(data), where="plan.json")
    assert "\n" not in str(caught.value)


def test_what_is_not_json_is_refused():
    with pytest.raises(ConfigError, match=r"plan\.json: .*JSON"):
        Plan.from_json("{", where="plan.json")


def test_records_are_frozen_and_keyword_only():
    scheme = Scheme(bits=4, granularity=PER_CHANNEL)
    with pytest.raises(Exception, match="frozen"):
        scheme.bits = 8
    with pytest.raises(TypeError):
        Scheme("affine")


def test_values_are_checked_when_built():
    with pytest.raises(ConfigError, match="granularity sides"):
        Scheme(granularity=(0, -1))
    with pytest.raises(ConfigError, match="fraction"):
        Weights(fraction=1.0)
    with pytest.raises(ConfigError, match="branch 'b' is decided more than once"):
        Plan(fingerprint="f", target="t", branches=(BranchDecision(branch="b", removed=True),) * 2)


def test_nan_and_infinity_are_no_measurements():
    with pytest.raises(ConfigError, match="latency_ms"):
        Measurement(latency_ms=float("inf"))
    with pytest.raises(ConfigError, match="value"):
        Drop(value=float("nan"), ci95=(0.0, 0.0))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_come_back_exactly(value):
    assert Measurement.from_json(Measurement(metric=value).to_json(), where="m").metric == value


def test_a_target_comes_back_from_its_json():
    target = Target(name="t", suffix=".onnx", schemes_by_operator={"linear": (Scheme(),)}, channel_multiple=4)
    assert Target.from_json(target.to_json(), where="target.json") == target
    with pytest.raises(ConfigError, match="channel_multiple"):
        Target(name="t", suffix=".onnx", schemes_by_operator={}, channel_multiple=0)
