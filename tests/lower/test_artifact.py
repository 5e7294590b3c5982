"""An artifact takes what the network took and gives what it gave."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from int8_nets import quantized, two_inputs
from trimtab.errors import LoweringError
from trimtab.graph import capture
from trimtab.lower import load, lower, lower_float, target
from trimtab.quant import IntegerSimulation, fold

RUNTIME = target("onnxruntime")


class Named(nn.Module):
    """Keyword inputs, one of them integers; a nested output."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 6)
        self.left = nn.Linear(6, 8)
        self.right = nn.Linear(5, 8)
        self.out = nn.Linear(16, 3)

    def forward(self, words: Tensor, numbers: Tensor) -> dict[str, Any]:
        left, right = F.relu(self.left(self.table(words))), F.relu(self.right(numbers))
        scores = self.out(torch.cat([left, right], 1))
        return {"scores": scores, "more": (left.sum(1), [right.amax(1)])}


def inputs_of(rows: int) -> dict[str, Tensor]:
    return {"words": torch.randint(0, 10, (rows,)), "numbers": torch.randn(rows, 5)}


def test_inputs_by_keyword_integers_and_nested_outputs(tmp_path: Path) -> None:
    network = quantized(Named(), inputs_of(8))
    artifact = lower(network, RUNTIME, tmp_path / "net.onnx")
    simulation = IntegerSimulation(fold(network.module))
    for rows in (1, 5):
        inputs = inputs_of(rows)
        got, expected = artifact(**inputs), simulation(**inputs)
        assert torch.equal(got["scores"], expected["scores"])
        assert torch.allclose(got["more"][0], expected["more"][0], rtol=1e-5)
        assert isinstance(got["more"], tuple)
        assert torch.allclose(got["more"][1][0], expected["more"][1][0])
        swapped = dict(reversed(inputs.items()))
        assert torch.equal(artifact(**swapped)["scores"], got["scores"])
        assert torch.equal(simulation(**swapped)["scores"], got["scores"])


def test_two_inputs_by_position(tmp_path: Path) -> None:
    inputs = torch.randn(8, 6), torch.randn(8, 5)
    network = quantized(two_inputs(), inputs)
    artifact = lower(network, RUNTIME, tmp_path / "net.onnx")
    assert torch.equal(artifact(*inputs), IntegerSimulation(fold(network.module))(*inputs))
    with pytest.raises(ValueError, match=r"shorter|longer"):
        artifact(inputs[0])


def test_a_float_artifact_equals_the_module(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    images = torch.randn(5, 3, 8, 8)
    artifact = lower_float(capture(model, images), RUNTIME, tmp_path / "float.onnx")
    assert torch.allclose(artifact(images), model(images), rtol=1e-4, atol=1e-5)


def test_a_network_in_training_mode_is_lowered_as_it_predicts_and_stays_in_it(tmp_path: Path) -> None:
    images = torch.randn(6, 3, 8, 8)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(144, 3))
    network = capture(model.eval(), images)
    network.train()
    for number, write in enumerate((lower, lower_float)):
        artifact = write(network, RUNTIME, tmp_path / f"{number}.onnx")
        assert network.training
        assert torch.allclose(artifact(images), model(images), rtol=1e-4, atol=1e-5)


def test_size_and_threads(tmp_path: Path) -> None:
    network = capture(nn.Sequential(nn.Linear(4, 2)), torch.randn(3, 4))
    artifact = lower_float(network, RUNTIME, tmp_path / "net.onnx")
    assert artifact.file_bytes == len((tmp_path / "net.onnx").read_bytes())
    twice = artifact.with_threads(2)
    assert (artifact.threads, twice.threads) == (RUNTIME.threads, 2)
    assert torch.equal(twice(torch.ones(1, 4)), artifact(torch.ones(1, 4)))


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x0a\x12"])
def test_a_damaged_file_is_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(LoweringError, match=r"broken\.onnx: ONNX Runtime cannot load it") as caught:
        load("onnxruntime", path)(torch.ones(1))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LoweringError, match=r"nowhere\.onnx") as caught:
        load("onnxruntime", tmp_path / "nowhere.onnx")(torch.ones(1))
    assert "\n" not in str(caught.value)


def test_an_operator_without_translation_is_named(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j0(x)

    network = capture(Odd(), torch.randn(3, 4))
    with pytest.raises(LoweringError, match="bessel_j0") as caught:
        lower(network, RUNTIME, tmp_path / "net.onnx")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "net.onnx").exists()
