"""The contract: the integer simulation gives what ONNX Runtime gives, bit for bit."""

from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper

from int8_nets import INTEGER_NETS, MIXED_NETS, quantized, random_inputs
from trimtab.lower import lower, target
from trimtab.lower.onnxruntime import OnnxRuntime
from trimtab.quant import fold

RUNTIME = target("onnxruntime")


@pytest.mark.parametrize("kind", INTEGER_NETS)
def test_every_output_is_identical(kind: str, tmp_path: Path) -> None:
    make, shapes = INTEGER_NETS[kind]
    network = quantized(make(), random_inputs(shapes, 16))
    artifact = lower(network, RUNTIME, tmp_path / "net.onnx")
    simulation = OnnxRuntime().simulation(fold(network.module)).run
    for rows in (1, 7, 32):
        inputs = random_inputs(shapes, rows, gain=1.3)  # some values leave the calibrated range
        assert torch.equal(artifact(*inputs), simulation(*inputs))
    kernels = OnnxRuntime().kernels(artifact)
    assert kernels.floating == {}
    assert kernels.fallbacks == ()
    assert _float_weights(artifact.path) == []


def _float_weights(path: Path) -> list[str]:
    """Constants in float with more than one dimension: weights that should be integers."""
    constants = onnx.load(path).graph.initializer
    return [c.name for c in constants if numpy_helper.to_array(c).ndim > 1 and c.data_type == onnx.TensorProto.FLOAT]


@pytest.mark.parametrize("kind", MIXED_NETS)
def test_operators_in_float_agree_to_rounding(kind: str, tmp_path: Path) -> None:
    """A float operator sums in its own order: 1e-5 relative, and rarely a code that lay on a tie moves by one."""
    make, shapes = MIXED_NETS[kind]
    network = quantized(make(), random_inputs(shapes, 16))
    artifact = lower(network, RUNTIME, tmp_path / "net.onnx")
    simulation = OnnxRuntime().simulation(fold(network.module)).run
    for rows in (1, 7, 32):
        inputs = random_inputs(shapes, rows)
        executed, simulated = artifact(*inputs), simulation(*inputs)
        difference = (executed - simulated).abs()
        spread = float(executed.abs().max())
        assert float((difference <= 1e-5 * spread).float().mean()) >= 0.9
        assert float(difference.max()) <= 0.03 * spread


@pytest.mark.parametrize("layers", [{"0.0", "2.2"}, set()])
def test_layers_left_in_float(layers: set[str], tmp_path: Path) -> None:
    make, shapes = INTEGER_NETS["stride, odd sizes"]
    network = quantized(make(), random_inputs(shapes, 16), layers)
    artifact = lower(network, RUNTIME, tmp_path / "net.onnx")
    inputs = random_inputs(shapes, 7)
    executed, simulated = artifact(*inputs), OnnxRuntime().simulation(fold(network.module)).run(*inputs)
    assert float((executed - simulated).abs().mean()) <= 1e-3 * float(executed.abs().max())
    lines = OnnxRuntime().kernels(artifact).fallbacks
    for name in {"0.0", "1.0", "2.2"} - layers:
        assert any(line.startswith(f"{name}: ") for line in lines), lines
    for name in layers:
        assert not any(line.startswith(f"{name}: ") for line in lines), lines
