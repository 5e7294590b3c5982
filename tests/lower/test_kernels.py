"""What `kernels` counts, and how it names what runs in float."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

from int8_nets import INTEGER_NETS, MIXED_NETS, conv, head, quantized, random_inputs
from trimtab.lower import load, lower, target
from trimtab.lower.kernels import Kernels
from trimtab.lower.onnxruntime import OnnxRuntime


def kernels_of(model: nn.Module, shapes: list[tuple[int, ...]], path: Path, layers: set[str] | None = None) -> Kernels:
    network = quantized(model, random_inputs(shapes, 8), layers)
    return OnnxRuntime().kernels(lower(network, target("onnxruntime"), path / "net.onnx"))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("option A", {"QLinearConv": 3, "QLinearAdd": 1, "QLinearGlobalAveragePool": 1, "QGemm": 1}),
        (
            "concatenation",
            {"QLinearConv": 4, "QLinearAveragePool": 1, "QLinearConcat": 1, "QLinearGlobalAveragePool": 1, "QGemm": 1},
        ),
    ],
)
def test_integer_kernels(kind: str, expected: dict[str, int], tmp_path: Path) -> None:
    make, shapes = INTEGER_NETS[kind]
    assert kernels_of(make(), shapes, tmp_path) == Kernels(integer=expected, floating={}, fallbacks=())


def test_gelu_is_named_and_runs_in_float(tmp_path: Path) -> None:
    make, shapes = MIXED_NETS["gelu"]
    found = kernels_of(make(), shapes, tmp_path)
    assert found.integer["QLinearConv"] == 2
    assert found.floating
    assert all(line.startswith("gelu") for line in found.fallbacks)
    assert Counter(line.split(": ")[1].split()[0] for line in found.fallbacks) == found.floating


def test_float_operators_are_named_by_the_users_line(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.last, self.head = conv(3, 8), conv(8, 8), head(8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.last(torch.tanh(self.stem(x))))

    model = Net()
    (line,) = kernels_of(model, [(3, 8, 8)], tmp_path).fallbacks
    assert line.startswith("tanh (test_kernels.py:")
    assert line.endswith(": Tanh runs in float")


def test_a_float_norm_is_named_by_its_module(tmp_path: Path) -> None:
    make, shapes = MIXED_NETS["norm over another dimension"]
    assert kernels_of(make(), shapes, tmp_path).fallbacks == ("1: BatchNormalization runs in float",)


def test_a_file_from_elsewhere_can_be_counted(tmp_path: Path) -> None:
    make, shapes = INTEGER_NETS["residual"]
    network = quantized(make(), random_inputs(shapes, 8))
    artifact = lower(network, target("onnxruntime"), tmp_path / "net.onnx")
    again = OnnxRuntime().kernels(load("onnxruntime", artifact.path))
    assert again == OnnxRuntime().kernels(artifact)
