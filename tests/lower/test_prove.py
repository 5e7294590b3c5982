"""The proof counts rows truly: equal when equal, and less when something is altered."""

from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from int8_nets import conv, head, quantized
from trimtab.errors import NumericsError, TaskError
from trimtab.graph import Network
from trimtab.lower import Artifact, load, lower, prove, target
from trimtab.lower.onnxruntime import OnnxRuntimeArtifact
from trimtab.quant import WeightFakeQuantize, fold

RUNTIME = target("onnxruntime")
IMAGES = torch.randn(40, 3, 8, 8)
LOADER = [(IMAGES[:32], torch.zeros(32)), (IMAGES[32:], torch.zeros(8))]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Network, Artifact]:
    network = quantized(nn.Sequential(conv(3, 8), conv(8, 8), head(8)), IMAGES)
    return network, lower(network, RUNTIME, tmp_path_factory.mktemp("net") / "net.onnx")


def test_a_true_artifact_is_identical(made: tuple[Network, Artifact]) -> None:
    network, artifact = made
    network.train()
    proof = prove(artifact, network, LOADER)
    assert network.training
    network.eval()
    assert proof.identical_rows == 1.0
    assert proof.rows == 40
    with torch.no_grad():
        # In prove's batches and memory layout: a value on a tie may round differently in another order of summation.
        laid_out = [x.contiguous(memory_format=torch.channels_last) for x, _ in LOADER]
        executed, trained = artifact(IMAGES), torch.cat([fold(network.module)(x) for x in laid_out])
    assert proof.training_agreement == float((executed.argmax(1) == trained.argmax(1)).float().mean())
    assert (proof.simulation, proof.agreement, proof.max_abs_diff) == ("integer", 1.0, 0.0)
    assert proof.integer_ops == {"QLinearConv": 2, "QLinearGlobalAveragePool": 1, "QGemm": 1}
    assert proof.float_ops == {}
    assert proof.fallbacks == ()
    assert proof.executed_on.startswith("onnxruntime ")


def altered(artifact: Artifact, path: Path) -> Artifact:
    """The same file with the logits' bias moved so that the first row's prediction must change."""
    model = onnx.load(artifact.path)
    (constant,) = [
        c for c in model.graph.initializer if c.data_type == onnx.TensorProto.INT32 and numpy_helper.to_array(c).any()
    ]
    codes = numpy_helper.to_array(constant).copy()
    predicted = int(artifact(IMAGES)[0].argmax())
    codes[(predicted + 1) % len(codes)] += 100_000_000
    constant.CopyFrom(numpy_helper.from_array(codes, constant.name))
    onnx.save(model, path)
    return load("onnxruntime", path)


def test_an_altered_file_is_found(made: tuple[Network, Artifact], tmp_path: Path) -> None:
    network, artifact = made
    proof = prove(altered(artifact, tmp_path / "altered.onnx"), network, LOADER)
    assert proof.identical_rows == 0.0
    assert proof.agreement < 1.0
    assert proof.max_abs_diff > 0


def test_an_altered_network_is_found(made: tuple[Network, Artifact]) -> None:
    network, artifact = made
    other = network.clone()
    with torch.no_grad():
        rounding = next(m for m in other.module.modules() if isinstance(m, WeightFakeQuantize))
        rounding.scale.mul_(0.5)
    proof = prove(artifact, other, LOADER)
    assert proof.identical_rows < 1.0
    assert proof.max_abs_diff > 0


def test_outputs_that_are_not_finite_are_refused(made: tuple[Network, Artifact]) -> None:
    network, artifact = made

    class Broken(OnnxRuntimeArtifact):
        def __call__(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
            return super().__call__(*args, **kwargs) * torch.nan

    with pytest.raises(NumericsError, match="not finite"):
        prove(Broken(artifact.path, RUNTIME), network, LOADER)


def test_no_rows_is_refused(made: tuple[Network, Artifact]) -> None:
    network, artifact = made
    with pytest.raises(TaskError, match="no rows"):
        prove(artifact, network, [])
