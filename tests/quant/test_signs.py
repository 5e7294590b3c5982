"""Binary activations: signs times a scale, the hard tanh's gradient, and uint8 kernels that give the same numbers."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from trimtab.errors import ConfigError
from trimtab.graph import Network, capture
from trimtab.lower import lower, target
from trimtab.plan import PER_CHANNEL, LayerDecision, Scheme
from trimtab.quant import IntegerSimulation, calibrate, fold, insert_fake_quantization
from trimtab.quant.learned import rounding_of_activation
from trimtab.quant.signs import Sign

BINARY = LayerDecision(layer="a", activation=Scheme(grid="binary", bits=1))


def fitted(data: Tensor) -> Sign:
    site = rounding_of_activation(BINARY, "here")
    assert isinstance(site, Sign)
    site.observe()
    site(data[: len(data) // 3])
    site(data[len(data) // 3 :])
    site.fit()
    return site


def test_values_are_signs_times_the_mean_magnitude() -> None:
    data = torch.randn(999) * 3
    site = fitted(data)
    x = torch.cat([torch.randn(50), torch.tensor([0.0, -0.0, 1e-30, -1e9])])
    expected = data.double().abs().mean() * torch.sign(x).double()
    assert torch.allclose(site(x).double(), expected, rtol=1e-5)


def test_the_mean_magnitude_has_the_least_squared_error() -> None:
    data = torch.randn(999).double() + 0.1
    scale = float(fitted(data.float()).scale.detach())
    errors = {factor: float((data - factor * scale * data.sign()).square().sum()) for factor in (0.99, 1.0, 1.01)}
    assert min(errors, key=lambda factor: errors[factor]) == 1.0


def test_gradients_are_those_of_the_hard_tanh_and_of_the_scale() -> None:
    site = fitted(torch.randn(100))
    x = torch.tensor([-1.5, -0.9, 0.2, 0.99, 1.01], requires_grad=True)
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    (site(x) * weight).sum().backward()
    scale = float(site.scale.detach())
    assert x.grad is not None
    assert x.grad.tolist() == pytest.approx([0.0, 2 * scale, 3 * scale, 4 * scale, 0.0])
    assert site.scale.grad is not None
    assert float(site.scale.grad) == pytest.approx((-1 - 2 + 3 + 4 + 5) / (len(x) * site.grid.high) ** 0.5, rel=1e-5)


@pytest.mark.parametrize("grid", ["ternary", "power_of_two"])
def test_activations_are_not_rounded_to_tables(grid: str) -> None:
    decision = LayerDecision(layer="a", activation=Scheme(grid=grid, bits=2))
    with pytest.raises(ConfigError, match=f"relu: kernels round activations to evenly spaced .* got grid '{grid}'"):
        rounding_of_activation(decision, "relu")


def binary_network(example: Tensor) -> Network:
    """Convolution, norm and sign twice, padded, with weights of signs too."""
    blocks = [nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b)) for a, b in ((3, 8), (8, 8))]
    model = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(8 * 36, 5))
    for name, parameter in model.named_parameters():
        if name in {"0.1.weight", "0.1.bias", "1.1.weight", "1.1.bias"}:
            nn.init.normal_(parameter)
    model.train()
    model(example)
    network = capture(model.eval(), example)
    weights = {"0.0": Scheme(grid="symmetric", granularity=PER_CHANNEL)}
    binary, eight = Scheme(grid="binary", bits=1), Scheme(grid="affine", bits=8)
    decisions = {
        name: LayerDecision(
            layer=name,
            weight=weights.get(name, Scheme(grid="binary", bits=1, granularity=PER_CHANNEL)),
            activation=eight if name == "0.0" else binary,
        )
        for name in ("0.0", "1.0", "3")
    }
    insert_fake_quantization(network.module, decisions, target("onnxruntime"))
    network.refresh()
    network.eval()
    calibrate(network.module, [example])
    return network


def test_a_binary_network_runs_in_uint8_kernels_as_simulated(tmp_path: Path) -> None:
    example = torch.randn(16, 3, 6, 6)
    network = binary_network(example)
    assert sum(isinstance(module, Sign) for module in network.module.modules()) == 2
    x = torch.randn(32, 3, 6, 6)
    with torch.no_grad():
        artifact = lower(network, target("onnxruntime"), tmp_path / "binary.onnx")
        integers = IntegerSimulation(fold(network.module))(x)
        assert torch.equal(artifact(x), integers)
        assert _share_within_half_a_step(network, x, integers) > 0.9


def _share_within_half_a_step(network: Network, x: Tensor, integers: Tensor) -> float:
    """Of the results, how many differ by no more than the rounding of the last layer's bias: no sign was turned."""
    scales = dict(network.module.named_parameters())
    step = scales["fake_quantize._3_weight.scale"].flatten() * scales["fake_quantize.batch_norm_1.scale"]
    return float(((network(x) - integers).abs() <= 0.501 * step).float().mean())


@pytest.mark.parametrize("beside", [-0.004, 0.004, 0.3])
def test_a_threshold_beside_a_sum_that_occurs_turns_no_sign(beside: float) -> None:
    """Sums of signs are integers; a bias rounded onto one of them would give 0 where the network has a sign."""
    example = torch.randn(16, 3, 6, 6)
    network = binary_network(example)
    scales = dict(network.module.named_parameters())
    unit = scales["fake_quantize._1_0_weight.scale"].detach().flatten() * scales["fake_quantize.batch_norm.scale"]
    sums = torch.randint(-3, 4, (8,)) * 2
    network.module.get_parameter("1.1.bias").data.zero_()
    network.module.get_buffer("1.1.running_mean").copy_(unit.detach() * (sums + beside))
    x = torch.randn(256, 3, 6, 6)
    with torch.no_grad():
        integers = IntegerSimulation(fold(network.module))(x)
        assert _share_within_half_a_step(network, x, integers) > 0.9
