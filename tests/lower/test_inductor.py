"""The compiled file computes on codes what the graph says, for any number of rows, and what it does not is named."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._inductor import config

from int8_nets import INTEGER_NETS, Wired, bare, conv, head, quantized, random_inputs
from trimtab.errors import LoweringError
from trimtab.graph import capture
from trimtab.lower import load, lower, lower_float, target
from trimtab.lower.inductor_graph import inductor_form
from trimtab.lower.targets import backend
from trimtab.quant import fold
from trimtab.quant.ops import DEQUANTIZE, QUANTIZE

RUNTIME = target("inductor")


def shortcuts() -> nn.Module:
    """One input channel, every second pixel with padded channels, a pool, ReLU6, and a sigmoid, which stays in float.

    A bias of at most 8 values would be written into the code.
    """

    def wiring(m: Any, x: Tensor) -> Tensor:
        x = F.max_pool2d(m.stem(x), 2)
        x = F.relu(m.second(m.first(x)) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)))
        return m.head(m.last(x))

    first, last = conv(16, 20, stride=2, act=nn.Sigmoid()), conv(20, 16, act=nn.ReLU6())
    return Wired(wiring, stem=conv(1, 16), first=first, second=bare(20, 20), last=last, head=head(16))


@pytest.mark.parametrize("name", INTEGER_NETS)
def test_the_rewritten_graph_computes_what_the_folded_one_does(name: str) -> None:
    make, shapes = INTEGER_NETS[name]
    folded = fold(quantized(make(), random_inputs(shapes, 16)).module)
    form = inductor_form(folded)
    assert not {QUANTIZE, DEQUANTIZE} & {node.target for node in form.graph.nodes}
    inputs = random_inputs(shapes, 24)
    with torch.inference_mode():
        written, expected = form(*inputs), folded(*inputs)
    spread = float(expected.amax() - expected.amin())
    assert float((written - expected).abs().mean()) <= 0.01 * spread  # a rounded tie may differ by one code


@pytest.mark.timeout(900)  # a compiler runs
def test_kernels_compute_what_the_simulation_does(tmp_path: Path) -> None:
    network = quantized(shortcuts(), torch.randn(16, 1, 16, 16))
    artifact = lower(network, RUNTIME, tmp_path / "net.pt2")
    simulation = backend("inductor").simulation(fold(network.module)).run
    again = load("inductor", artifact.path).with_threads(2)
    for rows in (1, 32):
        images = torch.randn(rows, 1, 16, 16)
        with torch.inference_mode():
            expected = simulation(images)
            for found in (artifact(images), again(images), artifact(images.to(memory_format=torch.channels_last))):
                close = (found - expected).abs().amax(1) <= 1e-4 * float(expected.amax() - expected.amin())
                assert float(close.float().mean()) >= 0.9
    kernels = backend("inductor").kernels(again)
    assert kernels.integer == {"qconv_pointwise": 4, "add": 1, "mean": 1, "qlinear_pointwise": 1}
    assert kernels.floating == {"sigmoid": 1}
    (line,) = kernels.fallbacks
    assert line.endswith(" in forward: sigmoid runs in float")
    timeline = artifact.timeline(torch.randn(2, 1, 16, 16), seconds=0.2)
    assert timeline is not None
    assert {"first.0", "second.0", "head.2"} <= {one.layer for one in timeline.operators if one.kind == "integer"}


@pytest.mark.timeout(900)
def test_float_files(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(576, 3)).eval()
    images = torch.randn(3, 3, 8, 8)
    artifact = lower_float(capture(model, images), RUNTIME, tmp_path / "float.pt2")
    torch.testing.assert_close(artifact(images), model(images), rtol=1e-4, atol=1e-5)
    kernels = backend("inductor").kernels(artifact)
    assert not kernels.integer
    assert sum(kernels.floating.values()) >= 2


def test_a_file_that_is_none_and_a_missing_compiler_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.pt2").write_bytes(b"not a package")
    with pytest.raises(LoweringError, match=r"broken\.pt2: no file of target 'inductor'") as caught:
        load("inductor", tmp_path / "broken.pt2")(torch.ones(1))
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    with pytest.raises(LoweringError, match=r"install g\+\+") as caught:
        lower_float(capture(nn.Linear(4, 3), torch.randn(2, 4)), RUNTIME, tmp_path / "net.pt2")
    assert "\n" not in str(caught.value)


def test_what_no_kernel_multiplies_is_refused() -> None:
    folded = fold(quantized(nn.Sequential(nn.Linear(4, 3)), torch.randn(8, 4)).module)
    zero = next(name for name, value in folded.named_buffers() if value.dtype == torch.uint8)
    owner, _, leaf = zero.rpartition(".")
    folded.get_submodule(owner).register_buffer(leaf, torch.zeros((), dtype=torch.int16))
    with pytest.raises(LoweringError, match="8 bits"):
        inductor_form(folded)
