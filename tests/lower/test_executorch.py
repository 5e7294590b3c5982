"""ExecuTorch executes the file on codes, as its simulation says, and what it cannot is named or refused."""

from pathlib import Path

import pytest
import torch
from torch import nn

from int8_nets import INTEGER_NETS, conv, head, quantized, random_inputs
from trimtab.errors import LoweringError
from trimtab.graph import capture
from trimtab.lower import load, lower, lower_float, target
from trimtab.lower.targets import backend
from trimtab.quant import fold

RUNTIME = target("executorch")
CHOSEN = ("option A", "concatenation", "relu6, hardtanh", "average pool, padding counted and not", "two inputs")


@pytest.mark.parametrize("name", CHOSEN)
def test_kernels_compute_what_the_simulation_does(name: str, tmp_path: Path) -> None:
    make, shapes = INTEGER_NETS[name]
    network = quantized(make(), random_inputs(shapes, 16))
    artifact = lower(network, RUNTIME, tmp_path / "net.pte")
    inputs = random_inputs(shapes, 24)
    with torch.inference_mode():
        executed, expected = artifact(*inputs), backend("executorch").simulation(fold(network.module)).run(*inputs)
    spread = float(expected.amax() - expected.amin())
    assert float((executed - expected).abs().mean()) <= 0.01 * spread
    kernels = backend("executorch").kernels(artifact)
    assert sum(kernels.integer.values()) >= 3
    if name == "option A":  # its strided and padded shortcut is a convolution too
        assert kernels.integer == {"Conv2d": 4, "Add": 1, "GlobalAvgPooling2d": 1, "FullyConnected": 1}
        assert kernels.floating == {}


def test_what_falls_back_is_named(tmp_path: Path) -> None:
    model = nn.Sequential(conv(3, 8, act=nn.Sigmoid()), conv(8, 8), head(8))
    artifact = lower(quantized(model, torch.randn(16, 3, 8, 8)), RUNTIME, tmp_path / "net.pte")
    kernels = backend("executorch").kernels(artifact)
    assert kernels.floating == {"Sigmoid": 1}
    assert len(kernels.fallbacks) == 1
    assert "sigmoid" in kernels.fallbacks[0]


def test_float_files_threads_and_loading_again(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    images = torch.randn(3, 3, 8, 8)
    artifact = lower_float(capture(model, images), RUNTIME, tmp_path / "float.pte")
    for one in (artifact, artifact.with_threads(2), artifact, load("executorch", artifact.path)):
        torch.testing.assert_close(one(images), model(images), rtol=1e-4, atol=1e-5)
    assert not backend("executorch").kernels(artifact).integer


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.pte").write_bytes(b"not a program")
    with pytest.raises(LoweringError, match=r"broken\.pte: ExecuTorch cannot load it") as caught:
        load("executorch", tmp_path / "broken.pte")(torch.ones(1))
    assert "\n" not in str(caught.value)
