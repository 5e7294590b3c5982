"""Zeros arrive: the weights in the file are zero where the plan wants them, in float and in integers."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from int8_nets import ACTIVATION, WEIGHT, conv, head, randomize
from recurrent_net import Last
from trimtab.apply import apply
from trimtab.graph import Network, capture, shrink
from trimtab.lower import lower, lower_float, prove, target
from trimtab.lower.onnxruntime import OnnxRuntime, optimized
from trimtab.plan import GroupDecision, Kernels, LayerDecision, NofM, Plan, Sparsity, Tiles, Weights
from trimtab.quant import IntegerSimulation, calibrate, fold

RUNTIME = target("onnxruntime")
IMAGES = torch.randn(16, 4, 8, 8)
SPARSITIES: dict[str, Sparsity] = {
    "0.0": Weights(fraction=0.8),
    "1.0": NofM(kept=2, of=4),
    "2.0": Tiles(shape=(4, 2), fraction=0.5),
    "3.0": Kernels(fraction=0.6),
    "4.2": Weights(fraction=0.9),
}
WIDTHS = (8, 12, 20, 24)


def captured() -> Network:
    a, b, c, d = WIDTHS
    model = nn.Sequential(conv(4, a), conv(a, b), conv(b, c, 1), conv(c, d, stride=2), head(d))
    randomize(model, IMAGES)
    return capture(model, IMAGES)


def sparse(network: Network, *, integer: bool, **changes: object) -> Network:
    scheme = {"weight": WEIGHT, "activation": ACTIVATION} if integer else {}
    layers = tuple(LayerDecision(layer=name, sparsity=s, **scheme) for name, s in SPARSITIES.items())  # type: ignore[arg-type]
    plan = Plan(fingerprint=network.fingerprint, target="onnxruntime", layers=layers, **changes)  # type: ignore[arg-type]
    smaller = apply(network, plan).eval()
    if integer:
        calibrate(smaller.module, [IMAGES])
    return smaller


def matrices(model: onnx.ModelProto) -> list[np.ndarray]:
    """Every constant matrix or kernel."""
    constants = model.graph.initializer
    return [array for c in constants if (array := numpy_helper.to_array(c)).ndim > 1]


def zeros_of(weight: Tensor, arrays: list[np.ndarray]) -> np.ndarray:
    """Of the one array of the weight's shape (a matrix may lie the other way), where it is zero."""
    shape = tuple(weight.shape)
    found = [array for array in arrays if array.shape == shape]
    found += [array.T for array in arrays if array.ndim == 2 and array.shape == shape[::-1] != shape]
    (array,) = found
    return array == 0


@pytest.mark.parametrize("cut", [False, True])
def test_a_float_file_has_exactly_the_zeros(cut: bool, tmp_path: Path) -> None:
    changes = {"groups": (GroupDecision(group="1.0", kept=(0, 1, 2, 5, 6, 7, 9, 11)),)} if cut else {}
    network = sparse(captured(), integer=False, **changes)
    artifact = lower_float(network, RUNTIME, tmp_path / "net.onnx")
    arrays = matrices(onnx.load(artifact.path))
    for name in SPARSITIES:
        weight = network.module.get_parameter(f"{name}.weight").detach()
        dead = weight.flatten(1).abs().amax(1) == 0  # batch norm folds a gamma into a row: zeros stay, others may come
        assert (weight == 0).any()
        zeros = zeros_of(weight, arrays)
        rows = ~dead & torch.tensor(~zeros.reshape(len(zeros), -1).all(1))
        assert int(rows.sum()) >= len(rows) // 2
        assert np.array_equal(zeros[rows.numpy()], (weight == 0)[rows].numpy())
        assert zeros[(weight == 0).numpy()].all()
    inputs = torch.randn(7, 4, 8, 8)
    assert torch.allclose(artifact(inputs), network(inputs), atol=1e-4)


def test_an_integer_file_has_the_zeros_and_the_simulation_agrees(tmp_path: Path) -> None:
    network = sparse(captured(), integer=True)
    artifact = lower(network, RUNTIME, tmp_path / "net.onnx")
    arrays = matrices(optimized(artifact))  # in the file, few different values are packed codes and a table
    assert {array.dtype.kind for array in arrays} == {"i"}
    for name, sparsity in SPARSITIES.items():
        weight = network.module.get_parameter(f"{name}.weight").detach()
        zeros = zeros_of(weight, arrays)
        assert zeros[(weight == 0).numpy()].all()
        share = sparsity.kept / sparsity.of if isinstance(sparsity, NofM) else sparsity.fraction
        assert zeros.mean() >= share - 0.01
    assert OnnxRuntime().kernels(artifact).floating == {}
    simulation = IntegerSimulation(fold(network.module))
    for rows in (1, 7):
        inputs = torch.randn(rows, 4, 8, 8)
        assert torch.equal(artifact(inputs), simulation(inputs))
    proof = prove(artifact, network, [(torch.randn(20, 4, 8, 8), torch.zeros(20))])
    assert proof.identical_rows == 1.0


def test_a_recurrent_file_has_the_zeros(tmp_path: Path) -> None:
    network = capture(Last().eval(), torch.randn(3, 5, 4))
    names = ("lstm.weight_ih_l0", "lstm.weight_hh_l0")
    plan = Plan(
        fingerprint=network.fingerprint,
        target="onnxruntime",
        layers=tuple(LayerDecision(layer=name, sparsity=Weights(fraction=0.75)) for name in names),
    )
    thin = apply(network, plan)
    artifact = lower_float(thin, RUNTIME, tmp_path / "net.onnx")
    arrays = matrices(onnx.load(artifact.path))
    for name in names:
        weight = thin.module.get_parameter(name)
        (array,) = [a for a in arrays if a.size == weight.numel()]
        assert (array == 0).mean() == 0.75
    inputs = torch.randn(6, 5, 4)
    assert torch.allclose(artifact(inputs), thin(inputs), atol=1e-5)


def test_a_shrunk_network_lowers_to_the_same_and_less(tmp_path: Path) -> None:
    """Half of the channels between two layers are read by nobody."""
    network = captured()
    with torch.no_grad():
        network.module.get_parameter("3.0.weight")[:, ::2] = 0
    for make in (lambda n: sparse(n, integer=False), lambda n: sparse(n, integer=True)):
        thin = make(network)
        small = shrink(thin)
        assert small.module.get_parameter("2.0.weight").shape[0] == WIDTHS[2] // 2
        before, after = (lower(n, RUNTIME, tmp_path / f"{i}.onnx") for i, n in enumerate((thin, small)))
        assert after.file_bytes < before.file_bytes
        inputs = torch.randn(5, 4, 8, 8)
        assert torch.allclose(before(inputs), after(inputs), atol=1e-4)
