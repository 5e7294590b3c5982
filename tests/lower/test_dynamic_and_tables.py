"""Ranges found at run time, recurrent layers and embeddings in int8: what the simulation says, the runtime computes."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimtab.apply import apply
from trimtab.errors import PlanError
from trimtab.graph import Network, capture
from trimtab.lower import Artifact, lower, lower_float, target
from trimtab.lower.onnxruntime import ACTIVATION_DYNAMIC, ACTIVATION_INT8, WEIGHT_INT8, OnnxRuntime
from trimtab.plan import LayerDecision, Plan, Scheme
from trimtab.quant import fold
from trimtab.quant.dynamic import DynamicFakeQuantize, dynamic_range
from trimtab.quant.stored import weight_reads

RUNTIME = target("onnxruntime")


class Reader(nn.Module):
    """An embedding, a recurrent stack and a linear layer."""

    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 16)
        self.stack = getattr(nn, kind)(16, 24, batch_first=True, **options)
        self.out = nn.Linear(48 if options.get("bidirectional") else 24, 5)

    def forward(self, words: Tensor) -> Tensor:
        return self.out(self.stack(self.table(words))[0][:, -1])


class Recommender(nn.Module):
    """Users and items by their embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(40, 12), nn.Embedding(30, 12)
        self.hidden, self.out = nn.Linear(24, 16), nn.Linear(16, 1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return self.out(F.relu(self.hidden(torch.cat([self.users(user), self.items(item)], 1))))


def in_int8(model: nn.Module, example: Any, weight: Scheme = WEIGHT_INT8) -> Network:
    """Every weight in int8, and every range found at run time."""
    network = capture(model.eval(), example)
    decisions = {
        read.name: LayerDecision(
            layer=read.name,
            weight=weight,
            activation=None if read.family == "embedding" else ACTIVATION_DYNAMIC,
        )
        for read in weight_reads(network.module)
    }
    plan = Plan(fingerprint=network.fingerprint, target="onnxruntime", layers=tuple(decisions.values()))
    return apply(network, plan).eval()


def executed(network: Network, folder: Path) -> tuple[Artifact, Any]:
    """The artifact, and the simulation that matches it."""
    return lower(network, RUNTIME, folder / "net.onnx"), OnnxRuntime().simulation(fold(network.module)).run


def words(rows: int) -> Tensor:
    return torch.randint(0, 50, (rows, 9))


def test_dynamic_linear_layers_are_identical(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 7, bias=False))
    network = in_int8(model, torch.randn(4, 6, 12))
    artifact, simulation = executed(network, tmp_path)
    for rows in (1, 5):
        x = 3 * torch.randn(rows, 6, 12) - 1
        assert torch.equal(artifact(x), simulation(x))
        with torch.no_grad():
            torch.testing.assert_close(artifact(x), network(x), rtol=1e-4, atol=1e-4)
            assert float((artifact(x) - model(x)).abs().max()) < 0.05 * float(model(x).abs().max())
    assert OnnxRuntime().kernels(artifact).integer == {"DynamicQuantizeMatMul": 2}


def test_a_tensor_of_zeros() -> None:
    zeros = torch.zeros(3, 4)
    assert torch.equal(DynamicFakeQuantize()(zeros), zeros)
    assert dynamic_range(zeros) == (torch.tensor(1.0), torch.tensor(0.0))


def test_gradients_pass_straight_through() -> None:
    x = torch.randn(3, 4, requires_grad=True)
    DynamicFakeQuantize()(x).square().sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, 2 * DynamicFakeQuantize()(x).detach())


@pytest.mark.parametrize(
    ("kind", "options", "kernels"),
    [
        ("LSTM", {"num_layers": 2, "bidirectional": True}, {"DynamicQuantizeLSTM": 4, "DynamicQuantizeMatMul": 1}),
        ("LSTM", {"bias": False}, {"DynamicQuantizeLSTM": 1, "DynamicQuantizeMatMul": 1}),
        ("GRU", {"num_layers": 2}, {"DynamicQuantizeMatMul": 5}),
        ("GRU", {"bidirectional": True, "bias": False}, {"DynamicQuantizeMatMul": 5}),
    ],
)
def test_recurrent_layers(kind: str, options: dict[str, Any], kernels: dict[str, int], tmp_path: Path) -> None:
    model = Reader(kind, **options)
    artifact, simulation = executed(in_int8(model, words(4)), tmp_path)
    for rows in (1, 5):
        batch = words(rows)
        torch.testing.assert_close(artifact(batch), simulation(batch), rtol=1e-4, atol=1e-3)
        with torch.no_grad():
            assert float((artifact(batch) - model(batch)).abs().max()) < 0.05
    found = OnnxRuntime().kernels(artifact)
    assert found.integer == kernels
    assert all(re.match(r"(\w+) \(.*test_dynamic_and_tables.py:\d+ in forward\)", line) for line in found.fallbacks)
    whole = lower_float(capture(model.eval(), words(4)), RUNTIME, tmp_path / "float.onnx")
    assert artifact.file_bytes < 0.55 * whole.file_bytes


@pytest.mark.parametrize("bits", [8, 4])
def test_a_recommender(bits: int, tmp_path: Path) -> None:
    model, pairs = Recommender(), (torch.randint(0, 40, (6,)), torch.randint(0, 30, (6,)))
    weight = Scheme(grid="symmetric", bits=bits, granularity=WEIGHT_INT8.granularity)
    artifact, simulation = executed(in_int8(model, pairs, weight), tmp_path)
    assert torch.equal(artifact(*pairs), simulation(*pairs))
    kernels = OnnxRuntime().kernels(artifact)
    assert kernels.integer == {"DynamicQuantizeMatMul": 2}
    assert set(kernels.floating) <= {"Add", "Mul", "Relu"}
    assert sum(line.startswith("embedding") for line in kernels.fallbacks) == kernels.floating["Mul"]


def test_a_recurrent_matrix_needs_a_dynamic_range() -> None:
    network = capture(Reader("LSTM").eval(), words(3))
    decision = LayerDecision(layer="stack.weight_ih_l0", weight=WEIGHT_INT8, activation=ACTIVATION_INT8)
    with pytest.raises(PlanError, match=r"stack\.weight_ih_l0: weight symmetric 8 bits .* of a recurrent it has: none"):
        apply(network, Plan(fingerprint=network.fingerprint, target="onnxruntime", layers=(decision,)))


def test_half_of_a_recurrent_layer_stays_in_float(tmp_path: Path) -> None:
    """One matrix in int8 is stored so, and the layer is computed in float."""
    network = capture(Reader("GRU").eval(), words(3))
    decision = LayerDecision(layer="stack.weight_ih_l0", weight=WEIGHT_INT8, activation=ACTIVATION_DYNAMIC)
    half = apply(network, Plan(fingerprint=network.fingerprint, target="onnxruntime", layers=(decision,))).eval()
    artifact, simulation = executed(half, tmp_path)
    torch.testing.assert_close(artifact(words(3)).shape, simulation(words(3)).shape)
    assert "GRU" in OnnxRuntime().kernels(artifact).floating
