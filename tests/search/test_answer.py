"""What is said when a budget is not kept."""

import pytest
from search_nets import Mixed, captured, profile_of

from trimtab.plan import Budget, Scheme
from trimtab.search import Judgement, Profile, contradictions, least, nearest, predicted, widest_plan
from trimtab.search.space import Option, Unit

BASELINE = {"size": 1000.0, "macs": 500.0}


def judged(size: float, macs: float, drop: float) -> Judgement:
    return Judgement(costs={"size": size, "macs": macs}, drop=drop)


@pytest.fixture(scope="module")
def profile() -> Profile:
    network = captured(Mixed())
    full = predicted(profile_of(network), widest_plan(profile_of(network)))
    return profile_of(network, baseline={name: 4 * full[name] for name in ("size", "macs", "bops")})


def test_the_nearest_on_each_side_of_a_budget() -> None:
    points = [judged(90, 100, 0.3), judged(100, 90, 0.2), judged(300, 90, 0.01), judged(150, 140, 0.01)]
    said = nearest(Budget(size="10%", macs="0.2x", drop=0.05), BASELINE, points)
    assert said == ["at size 100 bytes, macs 90: drop 0.2000", "at size 150 bytes, macs 140: drop 0.0100"]
    assert nearest(Budget(drop=0.05), BASELINE, points) == []
    assert nearest(Budget(size="1%", drop=0.0), BASELINE, points[:2]) == []


def test_a_limit_that_nothing_keeps_is_named_with_what_can_be_reached(profile: Profile) -> None:
    (said,) = contradictions(profile, Budget(size="0.1%", macs="50%"), profile.baseline)
    assert said == f"the smallest size within reach is {least(profile, 'size'):.0f} bytes"
    assert contradictions(profile, Budget(size="90%", macs="90%"), profile.baseline) == []


def test_two_limits_that_exclude_each_other_are_named(profile: Profile) -> None:
    """One layer: few bits of weights and many of activations, or the other way round."""
    narrow, wide = (Scheme(grid="symmetric", bits=bits) for bits in (4, 8))
    options = (
        Option(kept=1, weight=narrow, activation=Scheme(bits=16)),
        Option(kept=1, weight=wide, activation=Scheme(bits=2)),
    )
    layer = next(layer for layer in profile.layers if layer.name == "fc2")
    terms = {"weights": ((1000, ()),), "outputs": ((10, ()),), "inputs": ((100, ()),)}
    alone = layer.model_copy(update={"owner": "fc2", **terms})
    unit = Unit(name="fc2", group=None, width=1, order=(0,), layers=("fc2",), options=options)
    baseline = {"size": 4000.0, "bops": 1024000.0, "macs": 1000.0}
    one = profile.model_copy(update={"units": (unit,), "layers": (alone,), "baseline": baseline})
    (said,) = contradictions(one, Budget(size="600B", bops=20000), baseline)
    assert said == "size 600 bytes and bops 2e+04 exclude each other: within the first the least bops is 6.4e+04"
    assert contradictions(one, Budget(size="2kB", bops=20000), baseline) == []
