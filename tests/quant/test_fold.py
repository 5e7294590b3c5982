"""Folding changes the form of a network, not what it computes."""

import pytest
import torch
from torch import Tensor, nn

from int8_nets import INTEGER_NETS, bare, conv, head, plan_for, quantized, random_inputs, randomize
from trimtab.apply import apply
from trimtab.errors import LoweringError, NumericsError
from trimtab.graph import capture
from trimtab.quant import IntegerSimulation, fold
from trimtab.quant.ops import DEQUANTIZE
from trimtab.tasks.task import call

IMAGES = torch.randn(16, 3, 8, 8)


def weights_of(folded: torch.fx.GraphModule) -> list[tuple[Tensor, Tensor, Tensor]]:
    """codes, scale and bias of every integer layer."""
    found = []
    for node in folded.graph.nodes:
        weight = node.args[1] if len(node.args) > 2 else None
        if "layer" in node.meta and getattr(weight, "target", None) == DEQUANTIZE:
            names = (weight.args[0].target, weight.args[1].target, node.args[2].target)
            found.append(tuple(folded.get_buffer(name) for name in names))
    return found


@pytest.mark.parametrize(
    "kind", ["residual", "option A", "concatenation", "average pool, partial windows", "linear over three dimensions"]
)
def test_folded_in_float_is_the_fake_quantized_network(kind: str) -> None:
    make, shapes = INTEGER_NETS[kind]
    inputs = random_inputs(shapes, 16)
    network = quantized(make(), inputs)
    with torch.no_grad():
        before, after = call(network, inputs), call(fold(network.module), inputs)
    assert float((before - after).abs().max()) <= 0.05 * float(before.abs().max())
    assert float((before - after).abs().mean()) <= 0.005 * float(before.abs().max())


def test_without_biases_folding_changes_nothing() -> None:
    body = [nn.Conv2d(3, 8, 3, bias=False), nn.ReLU6(), nn.Conv2d(8, 8, 3, bias=False), nn.Hardtanh(-0.1, 0.2)]
    network = quantized(nn.Sequential(*body, nn.Flatten(), nn.Linear(128, 5, bias=False)), IMAGES)
    with torch.no_grad():
        before, after = network(IMAGES), fold(network.module)(IMAGES)
    same = torch.isclose(before, after, rtol=1e-5, atol=1e-6)
    assert float(same.float().mean()) > 0.9  # a value on a tie may go the other way
    assert float((before - after).abs().max()) < 0.02 * float(before.abs().max())


def test_folding_a_norm_is_exact_in_float() -> None:
    model = nn.Sequential(conv(3, 8), bare(8, 6), nn.Flatten(), nn.Linear(6 * 64, 16), nn.BatchNorm1d(16))
    randomize(model, IMAGES)
    network = capture(model, IMAGES)
    folded = fold(network.module)
    assert not any(node.target == torch.ops.aten.batch_norm.default for node in folded.graph.nodes)
    assert torch.allclose(folded(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-5)


def test_negative_and_zero_gammas() -> None:
    network = quantized(nn.Sequential(bare(3, 8), head(8)), IMAGES)
    gamma = network.module.get_parameter("0.1.weight").detach()
    ((codes, scale, bias), _) = weights_of(fold(network.module))
    assert bool((scale > 0).all())
    real = network.module.get_parameter("0.0.weight").detach().flatten(1)
    gain = gamma / (network.module.get_buffer("0.1.running_var") + 1e-5).sqrt()
    expected = real * gain[:, None]
    got = codes.float().flatten(1) * scale[:, None]
    assert torch.allclose(got, expected, atol=float(scale.max()) * 0.51)
    assert bool((gamma < 0).any())
    zero = int((gamma == 0).nonzero()[0])
    shift = network.module.get_parameter("0.1.bias")[zero]
    assert float(got[zero].abs().max()) < 1e-6 * abs(float(shift.detach()))
    assert float(bias[zero]) == pytest.approx(float(shift.detach()), rel=1e-5)


def test_a_bias_beyond_int32_grows_the_scale() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        model[0].weight[0] *= 1e-12
        model[0].bias[0] = 3.0
    network = quantized(model, IMAGES)
    folded = fold(network.module)
    codes, scale, bias = weights_of(folded)[0]
    step = float(network.module.get_parameter("fake_quantize.input_1.scale").detach()) * scale.double()
    assert bool(((bias.double() / step).abs() < 2**31 - 2**24).all())
    assert float(bias[0]) == pytest.approx(3.0, rel=1e-6)
    assert codes.abs().flatten(1).amax(1).tolist()[0] < 127
    with torch.no_grad():
        before, after = network(IMAGES), folded(IMAGES)
    assert float((before - after).abs().max()) < 0.02 * float(before.abs().max())


def test_a_channel_of_zeros_and_no_bias() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 2, 1, bias=False))
    with torch.no_grad():
        model[0].weight[1] = 0
    network = quantized(model, IMAGES)
    assert bool(IntegerSimulation(fold(network.module))(IMAGES).isfinite().all())


def test_layers_left_in_float_keep_their_values() -> None:
    model = nn.Sequential(conv(3, 8), conv(8, 8), head(8))
    network = quantized(model, IMAGES, layers=set())
    assert torch.allclose(fold(network.module)(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-5)
    assert weights_of(fold(network.module)) == []


def test_a_norm_over_another_dimension_stays() -> None:
    rows = torch.randn(16, 4, 6)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(8, 5))
    randomize(model, rows)
    network = capture(model, rows)
    assert torch.allclose(fold(network.module)(rows), model(rows), rtol=1e-4, atol=1e-5)


def test_the_network_itself_is_not_changed() -> None:
    network = quantized(nn.Sequential(conv(3, 8), head(8)), IMAGES)
    before, code = {k: v.clone() for k, v in network.state_dict().items()}, network.module.code
    fold(network.module)
    assert network.module.code == code
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_a_range_that_is_not_known_is_refused() -> None:
    network = capture(nn.Sequential(conv(3, 8), head(8)).eval(), IMAGES)
    with pytest.raises(NumericsError, match="the activation range is not known"):
        fold(apply(network, plan_for(network)).module)


@pytest.mark.parametrize(
    ("pool", "rule"),
    [
        (nn.AvgPool2d(3, 2, 1, ceil_mode=True), "ceil_mode that counts its padding"),
        (nn.AvgPool2d(2, divisor_override=3), "divisor_override"),
    ],
)
def test_pooling_that_no_runtime_has_is_refused(pool: nn.Module, rule: str) -> None:
    model = nn.Sequential(conv(3, 8), pool, conv(8, 8), head(8))
    network = quantized(model, IMAGES)
    with pytest.raises(LoweringError, match=rule):
        fold(network.module)
