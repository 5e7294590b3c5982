"""Network.dequantize: the float network whose weights are the rounded ones, on every kind of int8 network."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import trimtab as tt
from int8_nets import INTEGER_NETS, MIXED_NETS, Wired, quantized, random_inputs
from trimtab.errors import PlanError
from trimtab.graph import Network, capture
from trimtab.plan import Fraction
from trimtab.quant import ActivationFakeQuantize, WeightFakeQuantize
from trimtab.tasks.task import call

NETS = INTEGER_NETS | MIXED_NETS


def rounds(network: Network) -> bool:
    return any(isinstance(m, (ActivationFakeQuantize, WeightFakeQuantize)) for m in network.module.modules())


def passing(network: Network) -> Network:
    """Its weights rounded, its activations not."""
    other = network.clone()
    for module in other.module.modules():
        if isinstance(module, ActivationFakeQuantize):
            module.forward = lambda x: x
    return other


@pytest.mark.parametrize("name", NETS)
def test_outputs_are_those_with_rounded_weights_and_unrounded_activations(name):
    make, shapes = NETS[name]
    network = quantized(make(), random_inputs(shapes, 5))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    floating = network.dequantize()
    fresh = random_inputs(shapes, 4)
    with torch.no_grad():
        torch.testing.assert_close(call(floating, fresh), call(passing(network), fresh), rtol=1e-5, atol=1e-6)
    assert rounds(network)
    assert not rounds(floating)
    assert not any("fake_quantize" in key for key in floating.state_dict())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("name", ["residual", "concatenation", "encoder layer", "shared weight"])
def test_it_is_the_captured_network_with_other_weights(name):
    make, shapes = NETS[name]
    torch.manual_seed(0)
    example = random_inputs(shapes, 5)
    model = make()
    network = quantized(model, example)
    captured = capture(model, example)
    floating = network.dequantize()
    assert floating.fingerprint == captured.fingerprint
    assert list(floating.state_dict()) == list(captured.state_dict())
    layers = {layer.weight for layer in captured.layers}
    for key, value in floating.state_dict().items():
        assert torch.equal(value, captured.state_dict()[key]) != (key in layers), key


def test_what_was_removed_stays_removed_and_zeros_stay_zero(tmp_path):
    make, shapes = NETS["residual"]
    example = random_inputs(shapes, 5)
    network = capture(make().eval(), example)
    cut = tt.prune(network, Fraction(removed=0.3), granularity="channels")
    sparse = tt.prune(network, Fraction(removed=0.5), granularity="weights")
    smaller = tt.apply(network, cut.model_copy(update={"layers": sparse.layers}))
    rounded = tt.apply(smaller, tt.quantize(smaller)).dequantize()
    for layer in rounded.layers:
        before = smaller.module.get_parameter(layer.weight)
        after = rounded.module.get_parameter(layer.weight)
        assert after.shape == before.shape
        assert not after[before == 0].any()
    assert any((smaller.module.get_parameter(layer.weight) == 0).any() for layer in rounded.layers)
    rounded.save(tmp_path / "float.safetensors")
    again = tt.load(tmp_path / "float.safetensors")
    torch.testing.assert_close(call(again, example), call(rounded, example))


def test_a_weight_that_something_else_reads_unrounded_keeps_its_own_values_there():
    def wiring(m, x):
        return F.linear(m.hidden(x), m.hidden.weight.t() + 0)  # the sum is computed, so that only `hidden` is a layer

    network = quantized(Wired(wiring, hidden=nn.Linear(6, 8)), random_inputs([(6,)], 5))
    own = network.module.get_parameter("hidden.weight").detach().clone()
    floating = network.dequantize()
    fresh = random_inputs([(6,)], 4)
    with torch.no_grad():
        torch.testing.assert_close(call(floating, fresh), call(passing(network), fresh))
    assert torch.equal(floating.module.get_parameter("hidden.weight"), own)
    assert not torch.equal(floating.module.get_parameter("hidden.weight_rounded"), own)


def test_a_network_that_rounds_nothing_is_copied():
    network = capture(nn.Linear(3, 2).eval(), torch.randn(4, 3))
    copied = network.dequantize()
    assert copied is not network
    assert torch.equal(copied.module.get_parameter("weight"), network.module.get_parameter("weight"))
    assert copied.module.get_parameter("weight") is not network.module.get_parameter("weight")


def test_gates_on_the_weights_are_refused():
    network = quantized(nn.Sequential(nn.Linear(6, 4)), random_inputs([(6,)], 5))

    class Gate(nn.Module):
        elementwise = True

        def forward(self, weight):
            return weight * 0.5

    graph = network.module.graph
    weight = next(node for node in graph.find_nodes(op="get_attr") if node.target == "0.weight")
    (rounding,) = weight.users
    network.module.add_submodule("gate", Gate())
    with graph.inserting_after(weight):
        gate = graph.call_module("gate", (weight,))
    rounding.args = (gate,)
    network.module.recompile()
    with pytest.raises(PlanError, match="finalize"):
        network.dequantize()
