"""Predicted costs against the network that was really cut, and timed kernels against what is looked up."""

import numpy as np
import onnxruntime
import pytest
from search_nets import Mixed, Sequence1d, captured, decisions_of, profile_of, random_choice

from trimtab.graph import cut, without
from trimtab.lower import target
from trimtab.measure import bops, macs
from trimtab.plan import GroupDecision
from trimtab.search.costs import Costs
from trimtab.search.latency_table import kernel_model, needed_times, time_layers
from trimtab.search.plan_search import all_costs, plan_of
from trimtab.search.profile import LatencyFit
from trimtab.search.space import evaluate_terms


@pytest.fixture(scope="module", params=[Mixed, Sequence1d])
def network(request):
    return captured(request.param())


def bytes_of(network, plan):
    """Weights at their bits; an output channel has a scale and a bias of four bytes each, in float a bias alone."""
    decided = decisions_of(plan)
    total = 0.0
    for layer in network.layers:
        weight = network.module.get_parameter(layer.weight)
        integer = layer.name in decided
        total += weight.numel() * (decided[layer.name].weight.bits / 8 if integer else 4)
        total += len(weight) * (8 if integer else 4)
    return total


def applied(network, plan):
    """Cut, and without the branches that the plan removes; what it stores is in float."""
    smaller = cut(network, {decision.group: decision.kept for decision in plan.groups})
    return without(smaller, [network.branch(decision.branch) for decision in plan.branches])


@pytest.mark.parametrize("limited", [(), ("size",), ("bops",)])
@pytest.mark.parametrize("seed", range(4))
def test_costs_of_a_plan_are_those_of_the_cut_network(network, seed, limited):
    profile = profile_of(network, limited=limited)
    choice = random_choice(profile, np.random.default_rng(seed))
    plan = plan_of(profile, choice)
    smaller = applied(network, plan)
    costs = {name: cost.at(choice) for name, cost in all_costs(profile).items()}
    assert costs["macs"] == macs(smaller)
    assert costs["bops"] == bops(smaller, plan)
    assert costs["size"] == pytest.approx(bytes_of(smaller, plan), abs=0.5)
    removed = {decision.branch for decision in plan.branches}
    losses = [
        unit.options[taken].loss
        for unit, taken in zip(profile.units, choice, strict=True)
        if not removed.intersection(unit.within)
    ]
    assert costs["loss"] == pytest.approx(sum(losses))


def test_the_space_has_groups_of_every_kind():
    network = captured(Mixed())
    assert {layer.owner for layer in profile_of(network).layers} <= {unit.name for unit in profile_of(network).units}
    grouped = {layer.name: layer.groups for layer in profile_of(network).layers}
    full = {group.name: group.width for group in network.groups}
    assert evaluate_terms(grouped["depth"], full) == 24
    assert evaluate_terms(grouped["last"], full) == 4
    assert grouped["stem"] == ((1, ()),)
    assert any(names for _, names in grouped["depth"])  # it can be cut, and its groups go with it


@pytest.mark.parametrize("seed", range(4))
def test_groups_of_convolutions_are_those_of_the_cut_network(network, seed):
    drawn = np.random.default_rng(seed)
    kept = {
        g.name: sorted(drawn.choice(g.width, drawn.integers(1, g.width + 1), replace=False)) for g in network.groups
    }
    kept = {name: [int(k) for k in places] for name, places in kept.items() if network.group(name).multiple_of == 1}
    smaller = cut(network, kept)
    widths = {g.name: len(kept.get(g.name, range(g.width))) for g in network.groups}
    for layer in profile_of(network).layers:
        node = next(n for n in smaller.module.graph.nodes if n.name == smaller.layer(layer.name).node)
        groups = node.args[6] if len(node.args) > 6 else 1
        assert evaluate_terms(layer.groups, widths) == groups, layer.name
        weight = smaller.module.get_parameter(smaller.layer(layer.name).weight)
        assert (evaluate_terms(layer.outputs, widths), evaluate_terms(layer.inputs, widths)) == tuple(weight.shape[:2])


def test_every_time_that_is_needed_is_looked_up_and_the_other_way_round(network):
    profile = profile_of(network)

    asked = set()

    class Noted(dict):
        def __missing__(self, key):
            asked.add(key)
            return 1.0

    needed = needed_times(profile.units, profile.layers)
    Costs(profile.units, profile.layers).latency(Noted())
    assert asked == set(needed)


def test_every_timed_model_runs_and_has_the_shape_of_the_layer(network):
    profile = profile_of(network)
    needed = needed_times(profile.units, profile.layers)
    full = {group.name: group.width for group in network.groups}
    nodes = {node.name: node for node in network.module.graph.nodes}
    for key, kernel in sorted(needed.items())[::7]:
        model = kernel_model(kernel, batch=3)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        declared = session.get_inputs()[0]
        x = np.ones(declared.shape, np.uint8 if kernel.integer else np.float32)
        (y,) = session.run(None, {declared.name: x})
        expected = nodes[network.layer(kernel.layer.name).node].meta["val"].shape
        if kernel.layer.operator == "convolution":
            assert y.shape == (3, kernel.outputs, *expected[2:]), key
            assert len(x[0]) == kernel.inputs * kernel.groups
        else:
            assert y.shape == (3 * np.prod(expected[1:-1], dtype=int), kernel.outputs), key
    assert any(kernel.groups not in {1, evaluate_terms(kernel.layer.groups, full)} for kernel in needed.values())


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_latency_of_a_choice_is_the_sum_of_its_kernels(runtime):
    network = captured(Sequence1d())
    profile = profile_of(network)
    times = time_layers(needed_times(profile.units, profile.layers), target(runtime), lambda: None)
    assert min(times.values()) > 0
    profile = profile.model_copy(
        update={"latency_table": times, "latency_fit": LatencyFit(of_sum=2.0, of_layers=0.5, constant=3.0)}
    )
    choice = random_choice(profile, np.random.default_rng(1))
    plan = plan_of(profile, choice)
    smaller = cut(network, {decision.group: decision.kept for decision in plan.groups})
    kernels = needed_times(profile.units, profile.layers)
    total = 0.0
    for layer in smaller.layers:
        weight = smaller.module.get_parameter(layer.weight)
        integer = layer.name in decisions_of(plan)
        here = {
            key
            for key, k in kernels.items()
            if (k.layer.name, k.outputs, k.inputs, k.integer) == (layer.name, *weight.shape[:2], integer)
        }
        assert len(here) == 1
        total += times[here.pop()]
    assert all_costs(profile)["latency"].at(choice) == pytest.approx(2 * total + 0.5 * len(smaller.layers) + 3)


def test_a_plan_keeps_the_most_important_channels():
    profile = profile_of(captured(Sequence1d()))
    choice = [next(i for i, o in enumerate(u.options) if o.kept < u.width or u.group is None) for u in profile.units]
    for decision in plan_of(profile, choice).groups:
        assert isinstance(decision, GroupDecision)
        unit = next(unit for unit in profile.units if unit.group == decision.group)
        assert set(decision.kept) == set(unit.order[: len(decision.kept)])
