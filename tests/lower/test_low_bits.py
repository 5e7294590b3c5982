"""Activations of fewer than 8 bits: uint8 codes that are clamped, identical in the simulation and in the runtime."""

from pathlib import Path

import pytest
import torch
from torch import nn

from int8_nets import INTEGER_NETS, plan_for, random_inputs, randomize
from trimtab.apply import apply
from trimtab.graph import Network, capture
from trimtab.lower import lower, target
from trimtab.lower.onnxruntime import OnnxRuntime
from trimtab.plan import PER_CHANNEL, PER_TENSOR, Scheme
from trimtab.quant import ActivationFakeQuantize, IntegerSimulation, calibrate, fold
from trimtab.tasks.task import Inputs

RUNTIME = target("onnxruntime")
NETS = (
    "stride, odd sizes",
    "relu6, hardtanh",
    "residual",
    "added to itself",
    "option A",
    "concatenation",
    "max pool",
    "linear over three dimensions",
    "shared weight",
)


def of_few_bits(model: nn.Module, example: Inputs, bits: list[int]) -> Network:
    """Calibrated; the layers take `bits` of weights and activations in turn."""
    randomize(model, example)
    network = capture(model, example)
    plan = plan_for(network)
    layers = [
        decision.model_copy(
            update={
                "weight": Scheme(grid="symmetric", bits=max(bits[i % len(bits)], 2), granularity=PER_CHANNEL),
                "activation": Scheme(grid="affine", bits=bits[i % len(bits)], granularity=PER_TENSOR),
            }
        )
        for i, decision in enumerate(plan.layers)
    ]
    result = apply(network, plan.model_copy(update={"layers": tuple(layers)})).eval()
    calibrate(result.module, [example])
    return result


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("bits", [[4], [8, 3, 1, 5]], ids=["all four", "mixed"])
def test_every_output_is_identical(kind: str, bits: list[int], tmp_path: Path) -> None:
    make, shapes = INTEGER_NETS[kind]
    network = of_few_bits(make(), random_inputs(shapes, 16), bits)
    artifact = lower(network, RUNTIME, tmp_path / "net.onnx")
    folded = fold(network.module)
    for rows in (1, 7):
        inputs = random_inputs(shapes, rows, gain=1.3)
        assert torch.equal(artifact(*inputs), IntegerSimulation(folded)(*inputs))
        if min(bits) >= 4:  # of one bit, a code that moves is another value
            with torch.no_grad():
                trained = network(*inputs)
                assert float((folded(*inputs) - trained).abs().mean()) <= 0.1 * float(trained.abs().max())
    assert OnnxRuntime().kernels(artifact).floating == {}


def test_codes_keep_to_their_bits() -> None:
    make, shapes = INTEGER_NETS["residual"]
    network = of_few_bits(make(), random_inputs(shapes, 16), [8, 3, 3, 8])
    folded = fold(network.module)
    most = {m.where: m.grid.high for m in network.module.modules() if isinstance(m, ActivationFakeQuantize)}
    assert sorted(most.values()) == [7, 7, 255, 255, 255, 255, 255]
    simulation = IntegerSimulation(folded)
    seen = []
    original = simulation.run_node

    def watched(node: torch.fx.Node) -> object:
        value = original(node)
        if node.target == torch.ops.aten.clamp.default:
            seen.append((float(value.codes.min()), float(value.codes.max()), node.args[2]))
        return value

    simulation.run_node = watched  # type: ignore[method-assign]
    simulation(*random_inputs(shapes, 8, gain=5))
    assert [high for _, _, high in seen if high == 7]
    assert all(low >= 0 and top <= high for low, top, high in seen)


def test_a_shortcut_keeps_all_bits() -> None:
    """The sum is read by a layer of few bits and by the next sum: two roundings of one value."""
    make, shapes = INTEGER_NETS["residual"]
    network = of_few_bits(make(), random_inputs(shapes, 16), [8, 3, 3, 8])
    rounded = {m.where: m.grid.bits for m in network.module.modules() if isinstance(m, ActivationFakeQuantize)}
    assert rounded["relu"] == 8
    assert rounded["relu to 3 bits"] == 3
    assert rounded["relu_1"] == 3
    assert rounded["batch_norm_2"] == 8
