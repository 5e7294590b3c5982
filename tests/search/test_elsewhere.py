"""Latency from a profile that was written on another machine."""

import numpy as np
import pytest
from search_nets import Mixed, captured, profile_of, random_choice

from trimtab.errors import ConfigError
from trimtab.lower import target
from trimtab.plan import GroupDecision, Plan
from trimtab.search import latency_of, of_network, predicted, read_table, timed_elsewhere, with_latency_of
from trimtab.search.latency_table import needed_times
from trimtab.search.plan_search import plan_of
from trimtab.search.profile import LatencyFit


@pytest.fixture(scope="module")
def found():
    profile = profile_of(captured(Mixed()))
    table = {key: 0.1 + (i % 7) for i, key in enumerate(sorted(needed_times(profile.units, profile.layers)))}
    fit = LatencyFit(of_sum=0.7, of_macs=1e-6, of_layers=0.3, constant=2.0)
    return profile.model_copy(update={"latency_table": table, "latency_fit": fit, "baseline": {"latency": 9.0}})


@pytest.mark.parametrize("seed", range(5))
def test_a_plan_takes_as_long_as_the_profile_says_whatever_bits_it_offers(found, seed):
    plan = plan_of(found, random_choice(found, np.random.default_rng(seed)))
    widest = [unit.model_copy(update={"options": unit.options[:1]}) for unit in found.units]
    expected = predicted(found, plan)["latency"]
    assert latency_of(found, plan) == pytest.approx(expected)
    assert latency_of(found.model_copy(update={"units": tuple(widest)}), plan) == pytest.approx(expected)


def test_the_float_network_takes_as_long_as_was_measured(found):
    assert latency_of(found, None) == latency_of(found, Plan(fingerprint=found.fingerprint, target="onnxruntime")) == 9


def test_a_width_that_was_not_timed_is_refused(found):
    group = found.units[0].group
    odd = Plan(
        fingerprint=found.fingerprint, target="onnxruntime", groups=(GroupDecision(group=group, kept=(0, 1, 2)),)
    )
    with pytest.raises(ConfigError, match=r"latency table: .*was not timed; choose a width that is"):
        latency_of(found, odd)


def test_another_target_batch_or_number_of_threads_is_refused(found):
    here = target("onnxruntime")
    content = found.to_json().encode()
    assert timed_elsewhere(content, here, where="there.json") == found
    for changed, said in (
        (target("openvino"), "target 'openvino', batch 1, threads 1"),
        (here.model_copy(update={"batch": 8}), "target 'onnxruntime', batch 8, threads 1"),
        (here.model_copy(update={"threads": 2}), "target 'onnxruntime', batch 1, threads 2"),
    ):
        with pytest.raises(ConfigError, match=f"there.json: has the latency of .*, not of {said}; profile again there"):
            timed_elsewhere(content, changed, where="there.json")


def test_another_network_or_no_latency_or_no_file_is_refused(found, tmp_path):
    with pytest.raises(ConfigError, match=r"there\.json: is the profile of the network .*; profile this task"):
        of_network(found, "0123456789abcdef", where="there.json")
    assert of_network(found, found.fingerprint, where="there.json") is found
    for without in ({"latency_table": {}}, {"baseline": {}}):
        content = found.model_copy(update=without).to_json().encode()
        with pytest.raises(ConfigError, match=r"there\.json: has no latency; write it with `trimtab profile TASK`"):
            timed_elsewhere(content, target("onnxruntime"), where="there.json")
    with pytest.raises(ConfigError, match=r"none\.json: No such file or directory; give a profile\.json"):
        read_table(tmp_path / "none.json")
    with pytest.raises(ConfigError, match=r"a plan\.json: fingerprint"):
        timed_elsewhere(b"{}", target("onnxruntime"), where="a plan.json")


def test_a_profile_takes_the_latency_over_only_if_all_its_kernels_are_there(found):
    here = profile_of(captured(Mixed()))
    taken = with_latency_of(here, found)
    assert (taken.latency_table, taken.latency_fit) == (found.latency_table, found.latency_fit)
    assert taken.baseline == {**here.baseline, "latency": 9.0}
    table = dict(list(found.latency_table.items())[1:])
    with pytest.raises(ConfigError, match=r"latency table: 1 of .* kernels were not timed, such as"):
        with_latency_of(here, found.model_copy(update={"latency_table": table}))
