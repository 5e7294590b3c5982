"""How far a network is from another: against numpy in float64."""

import numpy as np
import pytest
import torch

import trimtab as tt
from int8_nets import INTEGER_NETS, quantized, random_inputs
from trimtab.errors import NumericsError, TaskError
from trimtab.graph import capture, cut


@pytest.fixture(scope="module")
def pair():
    make, shapes = INTEGER_NETS["option A"]
    model, example = make(), random_inputs(shapes, 5)
    rounded = quantized(model, example)
    return capture(model, example), rounded, [(random_inputs(shapes, n), None) for n in (6, 3)]


def test_a_network_is_at_distance_zero_from_itself(pair):
    network, _, batches = pair
    found = tt.distance(network, network.clone(), batches)
    assert found.divergence == 0
    assert set(found.weights.values()) == {0.0}
    assert set(found.weights) == {layer.name for layer in network.layers}


def test_distance_of_a_fake_quantized_network(pair):
    network, rounded, batches = pair
    found = tt.distance(rounded, network, batches)
    with torch.no_grad():
        ours, theirs = (
            np.concatenate([n(*inputs).numpy() for inputs, _ in batches]).astype(np.float64) for n in (rounded, network)
        )
    assert found.divergence == pytest.approx(((ours - theirs) ** 2).mean() / theirs.var(), rel=1e-3)
    for name, error in found.weights.items():
        weight = network.module.get_parameter(f"{name}.weight").detach().numpy().astype(np.float64)
        rows = weight.reshape(len(weight), -1)
        step = np.abs(rows).max(1, keepdims=True) / 127
        nearest = np.round(rows / step) * step
        assert error == pytest.approx(np.linalg.norm(nearest - rows) / np.linalg.norm(rows), rel=1e-2)
    assert tt.distance(rounded.dequantize(), network, batches).weights == found.weights


def test_layers_of_another_shape_have_no_error(pair):
    network, _, batches = pair
    group = network.groups[0]
    found = tt.distance(cut(network, {group.name: tuple(range(group.width - 1))}), network, batches)
    changed = {member.parameter.removesuffix(".weight") for member in group.members}
    for name, error in found.weights.items():
        assert (error is None) == (name in changed)


def test_what_cannot_be_compared_is_refused(pair):
    network, _, batches = pair
    with pytest.raises(TaskError, match="no batches"):
        tt.distance(network, network, [])
    broken = network.clone()
    with torch.no_grad():
        next(iter(broken.parameters())).fill_(torch.nan)
    with pytest.raises(NumericsError, match="not finite"):
        tt.distance(broken, network, batches)
