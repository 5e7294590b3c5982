"""Whatever the grid: simulated, folded and executed are one network, with batch norms of both signs and zeros kept."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from int8_nets import ACTIVATION, bare, conv, head, randomize
from trimtab.apply import apply
from trimtab.errors import LoweringError, PlanError
from trimtab.graph import Network, capture
from trimtab.lower import lower, prove
from trimtab.lower import target as target_of
from trimtab.plan import PER_CHANNEL, PER_NETWORK, PER_TENSOR, LayerDecision, Plan, Scheme, Weights
from trimtab.quant import GRIDS, IntegerSimulation, WeightFakeQuantize, calibrate, fold, insert_fake_quantization
from trimtab.quant.grids.kernels import executes, reach
from trimtab.quant.ops import DEQUANTIZE
from trimtab.testing import grid_cases

IMAGES = torch.randn(16, 3, 8, 8)
INT8 = Scheme(grid="symmetric", bits=8, granularity=PER_CHANNEL)
FITTING = [case for case in grid_cases() if reach(GRIDS.load(case[0])(case[1])) <= 127]


def rounded(scheme: Scheme, activation: Scheme | None = ACTIVATION, sparsity: Weights | None = None) -> Network:
    """Three convolutions with batch norm and a linear layer, all with weights of `scheme`."""
    model = nn.Sequential(conv(3, 8), bare(8, 6), conv(6, 8), head(8))
    randomize(model, IMAGES)
    network = capture(model, IMAGES)
    decisions = tuple(
        LayerDecision(layer=layer.name, weight=scheme, activation=activation, sparsity=sparsity)
        for layer in network.layers
    )
    result = apply(network, Plan(fingerprint=network.fingerprint, target="onnxruntime", layers=decisions))
    result.eval()
    calibrate(result.module, [IMAGES])
    return result


def folded_weights(folded: torch.fx.GraphModule) -> dict[str, tuple[Tensor, Tensor]]:
    """Integers and scales of every layer that has integers."""
    found = {}
    for node in folded.graph.nodes:
        weight = node.args[1] if "layer" in node.meta else None
        if getattr(weight, "target", None) == torch.ops.aten.reshape.default:
            weight = weight.args[0]
        if getattr(weight, "target", None) == DEQUANTIZE:
            found[node.meta["layer"]] = tuple(folded.get_buffer(arg.target) for arg in weight.args[:2])
    return found


@pytest.mark.parametrize("granularity", [PER_CHANNEL, PER_TENSOR, PER_NETWORK])
@pytest.mark.parametrize(("name", "bits"), [case for case in FITTING if case[1] in {1, 2, 4}])
def test_folding_multiplies_the_rounded_weight_by_the_norm(name: str, bits: int, granularity: tuple[int, int]) -> None:
    network = rounded(Scheme(grid=name, bits=bits, granularity=granularity))
    module = network.module
    found = folded_weights(fold(module))
    assert list(found) == ["0.0", "1.0", "2.0", "3.2"]
    for layer, norm in (("0.0", "0.1"), ("1.0", "1.1"), ("2.0", "2.1")):
        codes, scale = found[layer]
        assert codes.dtype == torch.int8
        call = next(
            node
            for node in module.graph.nodes
            if node.op == "call_module"
            and "weight" in str(node.target)
            and str(node.args[0].target) == f"{layer}.weight"
        )
        with torch.no_grad():
            weight = module.get_submodule(call.target)(module.get_parameter(f"{layer}.weight")).double()
        gamma, variance = module.get_parameter(f"{norm}.weight").double(), module.get_buffer(f"{norm}.running_var")
        assert bool((gamma < 0).any())
        gain = gamma.detach() / (variance.double() + 1e-5).sqrt()
        expected = (weight * gain.view(-1, 1, 1, 1)).flatten(1)
        got = codes.double().flatten(1) * scale.double()[:, None]
        plain = gain != 0
        assert torch.allclose(got[plain], expected[plain], rtol=1e-5, atol=0)


def test_what_was_simulated_is_what_the_runtime_executes(tmp_path: Path) -> None:
    """One network with a layer for every grid whose integers int8 kernels hold."""
    chosen = [case for case in FITTING if case[1] in {1, 2, 4}]
    model = nn.Sequential(conv(3, 8), *(conv(8, 8) for _ in chosen), head(8))
    randomize(model, IMAGES)
    network = capture(model, IMAGES)
    schemes = [INT8, *(Scheme(grid=name, bits=bits, granularity=PER_CHANNEL) for name, bits in chosen), INT8]
    decisions = tuple(
        LayerDecision(layer=layer.name, weight=scheme, activation=ACTIVATION)
        for layer, scheme in zip(network.layers, schemes, strict=True)
    )
    network = apply(network, Plan(fingerprint=network.fingerprint, target="onnxruntime", layers=decisions))
    network.eval()
    calibrate(network.module, [IMAGES])
    proof = prove(
        lower(network, target_of("onnxruntime"), tmp_path / "net.onnx"),
        network,
        [(torch.randn(64, 3, 8, 8), torch.zeros(64))],
    )
    assert proof.identical_rows == 1.0
    assert not proof.fallbacks


@pytest.mark.parametrize(("name", "bits"), [case for case in FITTING if case[0] != "binary" and case[1] in {2, 4}])
def test_zeros_are_zero_in_the_folded_graph(name: str, bits: int) -> None:
    network = rounded(Scheme(grid=name, bits=bits, granularity=PER_CHANNEL), sparsity=Weights(fraction=0.6))
    for layer, (codes, _) in folded_weights(fold(network.module)).items():
        weight = network.module.get_parameter(f"{layer}.weight")
        assert float((weight == 0).float().mean()) == pytest.approx(0.6, abs=0.02)
        assert bool((codes[weight == 0] == 0).all())


@pytest.mark.parametrize("bits", [4, 8])
def test_groups_of_inputs_fold_to_block_scales(bits: int) -> None:
    """No target has such kernels for these layers, so the modules are inserted by hand."""
    model = nn.Sequential(bare(4, 8), nn.Flatten(), nn.Linear(8 * 16, 12), nn.BatchNorm1d(12))
    images = torch.randn(16, 4, 4, 4)
    randomize(model, images)
    network = capture(model, images)
    scheme = Scheme(grid="symmetric", bits=bits, granularity=(1, 4))
    decisions = {name: LayerDecision(layer=name, weight=scheme) for name in ("0.0", "2")}
    insert_fake_quantization(network.module, decisions, target_of("onnxruntime"))
    network.eval()
    folded = fold(network.module)
    shapes = [(tuple(codes.shape), tuple(scale.shape)) for codes, scale in folded_weights(folded).values()]
    assert shapes == [((8, 36), (8, 9)), ((12, 128), (12, 32))]
    with torch.no_grad():
        assert torch.allclose(folded(images), network(images), rtol=1e-4, atol=1e-4)
        assert torch.allclose(IntegerSimulation(folded)(images), folded(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("grid", "bits"), [("symmetric", 16), ("power_of_two", 5), ("additive_power_of_two", 8)])
def test_wide_integers_fold_to_int16_and_are_refused_by_int8_kernels(grid: str, bits: int) -> None:
    scheme = Scheme(grid=grid, bits=bits, granularity=PER_CHANNEL)
    with pytest.raises(PlanError, match=rf"0\.0: weight {grid} {bits} bits .* is not executed by target 'onnxruntime'"):
        rounded(scheme)
    model = nn.Sequential(bare(3, 8), head(8))
    randomize(model, IMAGES)
    network = capture(model, IMAGES)
    decision = LayerDecision(layer="0.0", weight=scheme, activation=ACTIVATION)
    insert_fake_quantization(network.module, {"0.0": decision}, target_of("onnxruntime"))
    network.eval()
    calibrate(network.module, [IMAGES])
    folded = fold(network.module)
    ((codes, _),) = folded_weights(folded).values()
    assert codes.dtype == torch.int16
    with torch.no_grad():
        assert torch.allclose(folded(IMAGES), network(IMAGES), rtol=1e-3, atol=1e-3)


def test_integers_beyond_sixteen_bits_are_refused() -> None:
    network = capture(nn.Sequential(bare(3, 8), head(8)).eval(), IMAGES)
    decision = LayerDecision(layer="0.0", weight=Scheme(grid="affine", bits=16, granularity=PER_CHANNEL))
    insert_fake_quantization(network.module, {"0.0": decision}, target_of("onnxruntime"))
    with pytest.raises(LoweringError, match=r"0\.0: weights are stored in 16 bits at most, got integers up to 65535"):
        fold(network.module)


def test_zeros_in_a_binary_layer_are_refused() -> None:
    scheme = Scheme(grid="binary", bits=1, granularity=PER_CHANNEL)
    with pytest.raises(PlanError, match=r"0\.0: zeros need a grid that has zero, 'binary' has none"):
        rounded(scheme, sparsity=Weights(fraction=0.5))


@pytest.mark.parametrize(
    ("grid", "bits", "granularity", "runs"),
    [
        ("symmetric", 8, PER_CHANNEL, True),
        ("symmetric", 3, PER_TENSOR, True),
        ("symmetric", 3, PER_NETWORK, True),
        ("sign_magnitude", 8, PER_CHANNEL, True),
        ("codebook", 8, PER_CHANNEL, True),
        ("power_of_two", 4, PER_CHANNEL, True),
        ("affine", 7, PER_CHANNEL, True),
        ("affine", 8, PER_CHANNEL, False),
        ("symmetric", 9, PER_CHANNEL, False),
        ("power_of_two", 5, PER_CHANNEL, False),
        ("symmetric", 4, (1, 32), False),
        ("symmetric", 4, (4, 32), False),
    ],
)
def test_a_kernel_takes_what_its_integers_hold(grid: str, bits: int, granularity: tuple[int, int], runs: bool) -> None:
    assert executes(INT8, Scheme(grid=grid, bits=bits, granularity=granularity)) is runs


def test_a_kernel_for_groups_takes_groups_of_its_size() -> None:
    kernel = Scheme(grid="symmetric", bits=4, granularity=(1, 32))
    assert executes(kernel, Scheme(grid="symmetric", bits=3, granularity=(1, 32)))
    assert not executes(kernel, Scheme(grid="symmetric", bits=4, granularity=(1, 64)))
    assert not executes(kernel, Scheme(grid="symmetric", bits=4, granularity=PER_CHANNEL))


def test_weights_alone_may_be_integers() -> None:
    network = rounded(Scheme(grid="ternary", bits=2, granularity=PER_CHANNEL), activation=None)
    folded = fold(network.module)
    with torch.no_grad():
        assert torch.allclose(folded(IMAGES), network(IMAGES), rtol=1e-4, atol=1e-4)
    assert sum(isinstance(m, WeightFakeQuantize) for m in network.module.modules()) == 4
