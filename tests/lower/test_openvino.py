"""OpenVINO executes the file on codes, as its simulation says bit for bit, and what it cannot is named or refused."""

import importlib
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from int8_nets import ACTIVATION, INTEGER_NETS, MIXED_NETS, Wired, bare, conv, head, quantized, random_inputs, randomize
from trimtab.apply import apply
from trimtab.errors import LoweringError, MissingPackageError
from trimtab.graph import Network, capture
from trimtab.lower import Artifact, backend, load, lower, lower_float, prove, target
from trimtab.plan import PER_CHANNEL, LayerDecision, Plan, Scheme
from trimtab.quant import calibrate, fold

OPENVINO = target("openvino")


def simulated(network: Network, inputs: tuple[Tensor, ...]) -> Any:
    return backend("openvino").simulation(fold(network.module)).run(*inputs)


def same_rows(artifact: Artifact, network: Network, inputs: tuple[Tensor, ...]) -> float:
    """The fraction of rows that are equal bit for bit."""
    executed, expected = artifact(*inputs), simulated(network, inputs)
    return int((executed == expected).flatten(1).all(1).sum()) / len(expected)


def projected(shortcut_first: bool) -> nn.Module:
    """A residual block whose shortcut is a convolution: two convolutions are added."""

    def wiring(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        if shortcut_first:
            shortcut = m.shortcut(x)
            return m.head(m.last(F.relu(m.second(m.first(x)) + shortcut)))
        return m.head(m.last(F.relu(m.second(m.first(x)) + m.shortcut(x))))

    parts = {"first": conv(8, 12, stride=2), "second": bare(12, 12), "shortcut": bare(8, 12, 1, stride=2)}
    return Wired(wiring, stem=conv(3, 8), **parts, last=conv(12, 8), head=head(8))


def added_behind_its_relu(signed: bool) -> nn.Module:
    """A residual branch that ends in an activation: the sum may not skip it."""
    branch = conv(8, 8, act=nn.Hardtanh() if signed else nn.ReLU())
    parts = {"first": conv(8, 8), "second": branch}
    return Wired(
        lambda m, x: (lambda y: m.head(m.last(y + m.second(m.first(y)))))(m.stem(x)),
        stem=conv(3, 8),
        **parts,
        last=conv(8, 8),
        head=head(8),
    )


def plain(signed: bool, bias: bool) -> nn.Module:
    """Convolutions without batch norm: a residual block, its sum and the mean with and without a ReLU."""
    act = nn.Identity() if signed else nn.ReLU()

    def wiring(m: Any, x: Tensor) -> Tensor:
        x = act(m.stem(x))
        return m.out(act(m.last(act(x + m.second(F.relu(m.first(x)))))).mean((2, 3)))

    parts = {name: nn.Conv2d(8, 8, 3, padding=1, bias=bias) for name in ("first", "second", "last")}
    return Wired(wiring, stem=nn.Conv2d(3, 8, 3, padding=1, bias=bias), **parts, out=nn.Linear(8, 5, bias=bias))


def hidden(bias: bool) -> nn.Module:
    """Linear layers whose results are rounded, to codes with and without a zero point."""
    widths, acts = (12, 32, 32, 32), (nn.ReLU(), nn.Identity(), nn.ReLU())
    layers = [nn.Linear(a, b, bias=bias) for a, b in pairwise(widths)]
    return nn.Sequential(*[m for pair in zip(layers, acts, strict=True) for m in pair], nn.Linear(32, 5, bias=bias))


def on_ties(network: Network, scale: float) -> None:
    """One scale for all codes, 1/128 and 1/64 for weights, and biases on their grid: many results lie between two."""
    weights = {str(layer.weight) for layer in network.layers}
    with torch.no_grad():
        for name, fake in network.module.get_submodule("fake_quantize").named_children():
            fake.get_parameter("scale").fill_(1 / 128 if name.endswith("_weight") else scale)
            if name.endswith("_weight"):
                fake.get_parameter("scale")[::3] = 1 / 64
        for layer in weights:
            bias = dict(network.module.named_parameters()).get(layer.replace("weight", "bias"))
            if bias is not None:
                bias.copy_((bias * 128 / scale).round() * scale / 128)


CHOSEN = (
    *("groups, depthwise, 1x1", "dilation, uneven padding, no activation", "relu6, hardtanh", "residual", "max pool"),
    *("added to itself", "option A", "concatenation", "average pool, padding counted and not", "mean, not kept"),
    *("flatten, hidden layers", "linear over three dimensions", "conv1d", "two inputs", "shared weight"),
)
NETS = {
    **{name: INTEGER_NETS[name] for name in CHOSEN},
    "projection first": (lambda: projected(True), [(3, 8, 8)]),
    "projection second": (lambda: projected(False), [(3, 8, 8)]),
    "added behind a relu": (lambda: added_behind_its_relu(False), [(3, 8, 8)]),
    "added behind a hardtanh": (lambda: added_behind_its_relu(True), [(3, 8, 8)]),
}


@pytest.mark.parametrize("kind", NETS)
def test_rows_are_those_of_the_simulation(kind: str, tmp_path: Path) -> None:
    make, shapes = NETS[kind]
    network = quantized(make(), random_inputs(shapes, 16))
    artifact = lower(network, OPENVINO, tmp_path / "net.onnx")
    for rows in (400, 1):
        assert same_rows(artifact, network, random_inputs(shapes, rows, gain=1.3)) == 1
    inputs = random_inputs(shapes, 40)
    trained = fold(network.module)(*inputs)
    spread = float(trained.amax() - trained.amin())
    assert float((artifact(*inputs) - trained).abs().mean()) <= 0.01 * spread
    kernels = backend("openvino").kernels(artifact)
    assert kernels.floating == {}
    assert kernels.fallbacks == ()
    calls = [node for node in network.module.graph.nodes if "conv" in str(node.target) or "linear" in str(node.target)]
    integer = kernels.integer.get("Convolution", 0) + kernels.integer.get("FullyConnected", 0)
    assert integer == sum(node.op == "call_function" for node in calls)


TIED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "relu": (lambda: plain(signed=False, bias=True), (3, 8, 8)),
    "relu, no bias": (lambda: plain(signed=False, bias=False), (3, 8, 8)),
    "signed": (lambda: plain(signed=True, bias=True), (3, 8, 8)),
    "signed, no bias": (lambda: plain(signed=True, bias=False), (3, 8, 8)),
    "hidden layers": (lambda: hidden(bias=True), (12,)),
    "hidden layers, no bias": (lambda: hidden(bias=False), (12,)),
}


@pytest.mark.parametrize("kind", TIED)
def test_ties_are_rounded_in_the_kernels_own_order(kind: str, tmp_path: Path) -> None:
    make, shape = TIED[kind]
    for seed, scale in enumerate((0.0107, 0.0131, 0.0173, 0.0223)):
        torch.manual_seed(seed)
        network = quantized(make(), random_inputs([shape], 16))
        on_ties(network, scale)
        artifact = lower(network, OPENVINO, tmp_path / "net.onnx")
        assert same_rows(artifact, network, random_inputs([shape], 200)) == 1


def test_what_falls_back_is_named(tmp_path: Path) -> None:
    make, shapes = {**INTEGER_NETS, **MIXED_NETS}["hardswish"]
    artifact = lower(quantized(make(), random_inputs(shapes, 16)), OPENVINO, tmp_path / "net.onnx")
    kernels = backend("openvino").kernels(artifact)
    assert kernels.integer["Convolution"] == 2
    (line,) = kernels.fallbacks
    assert line.startswith("hardswish")
    assert line.endswith(": Eltwise runs in float")


def test_layers_left_in_float_are_named(tmp_path: Path) -> None:
    make, shapes = INTEGER_NETS["stride, odd sizes"]
    artifact = lower(quantized(make(), random_inputs(shapes, 16), {"0.0", "2.2"}), OPENVINO, tmp_path / "net.onnx")
    kernels = backend("openvino").kernels(artifact)
    assert kernels.floating["Convolution"] == 1
    assert [line for line in kernels.fallbacks if line.startswith("1.0: ")] == ["1.0: Convolution runs in float"]
    assert not any(line.startswith(("0.0: ", "2.2: ")) for line in kernels.fallbacks)


@pytest.mark.parametrize("bits", [2, 4])
def test_narrow_weights_run_as_int8(bits: int, tmp_path: Path) -> None:
    images = torch.randn(16, 3, 8, 8)
    model = nn.Sequential(conv(3, 8), conv(8, 32), conv(32, 32), head(32))
    randomize(model, images)
    captured = capture(model, images)
    weight = Scheme(grid="symmetric", bits=bits, granularity=PER_CHANNEL)
    decisions = tuple(LayerDecision(layer=x.name, weight=weight, activation=ACTIVATION) for x in captured.layers)
    network = apply(captured, Plan(fingerprint=captured.fingerprint, target="openvino", layers=decisions))
    network.eval()
    calibrate(network.module, [images])
    artifact = lower(network, OPENVINO, tmp_path / "net.onnx")
    weights = sum(network.module.get_parameter(layer.weight).numel() for layer in network.layers)
    assert artifact.file_bytes < weights * bits / 8 + 6000
    assert same_rows(artifact, network, (torch.randn(400, 3, 8, 8),)) == 1
    assert backend("openvino").kernels(artifact).integer == {"Convolution": 3, "Reduce": 1, "FullyConnected": 1}


class Named(nn.Module):
    """Keyword inputs, one of them integers; a nested output."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 6)
        self.left, self.right, self.out = nn.Linear(6, 8), nn.Linear(5, 8), nn.Linear(16, 3)

    def forward(self, words: Tensor, numbers: Tensor) -> dict[str, Any]:
        left, right = F.relu(self.left(self.table(words))), F.relu(self.right(numbers))
        return {"scores": self.out(torch.cat([left, right], 1)), "more": (left.sum(1), [right.amax(1)])}


def test_inputs_by_keyword_integers_and_nested_outputs(tmp_path: Path) -> None:
    def inputs_of(rows: int) -> dict[str, Tensor]:
        return {"words": torch.randint(0, 10, (rows,)), "numbers": torch.randn(rows, 5)}

    model = Named()
    artifact = lower_float(capture(model.eval(), inputs_of(8)), OPENVINO, tmp_path / "net.onnx")
    for rows in (1, 5, 2):
        inputs = inputs_of(rows)
        torch.testing.assert_close(artifact(**dict(reversed(inputs.items()))), model(**inputs), rtol=1e-5, atol=1e-5)


def test_float_is_float32_with_any_layout_threads_and_batch(tmp_path: Path) -> None:
    model = nn.Sequential(conv(3, 16), conv(16, 16), head(16))
    randomize(model, torch.randn(16, 3, 8, 8))
    artifact = lower_float(capture(model, torch.randn(3, 3, 8, 8)), OPENVINO, tmp_path / "float.onnx")
    assert artifact.file_bytes == len((tmp_path / "float.onnx").read_bytes())
    kept = []
    for one in (artifact, artifact.with_threads(2), artifact, load("openvino", artifact.path)):
        images = torch.randn(len(kept) + 1, 3, 8, 8).contiguous(memory_format=torch.channels_last)
        kept.append((one(images), model(images).detach()))
    for executed, expected in kept:  # a later run leaves what an earlier one gave
        torch.testing.assert_close(executed, expected, rtol=1e-5, atol=1e-5)
    assert artifact.executed_on.startswith("openvino 20")
    assert artifact.with_threads(2).executed_on.endswith("CPU, 2 thread(s)")
    kernels = backend("openvino").kernels(artifact)
    assert kernels.integer == {}
    assert kernels.floating["Convolution"] == 2
    with pytest.raises(ValueError, match=r"shorter|longer"):
        artifact(images, images)


def test_the_proof(tmp_path: Path) -> None:
    images = torch.randn(400, 3, 8, 8)
    network = quantized(nn.Sequential(conv(3, 8), conv(8, 8), head(8)), images)
    artifact = lower(network, OPENVINO, tmp_path / "net.onnx")
    proof = prove(artifact, network, [(images[:300], torch.zeros(300)), (images[300:], torch.zeros(100))])
    assert (proof.simulation, proof.rows) == ("integer", 400)
    assert (proof.agreement, proof.identical_rows) == (1, 1)
    assert proof.integer_ops == {"Convolution": 2, "Reduce": 1, "FullyConnected": 1}
    assert (proof.float_ops, proof.fallbacks) == ({}, ())
    assert proof.executed_on.startswith("openvino ")


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x0a\x12"])
def test_a_damaged_file_is_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(LoweringError, match=r"broken\.onnx: OpenVINO cannot load it") as caught:
        load("openvino", path)(torch.ones(1))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LoweringError, match=r"nowhere\.onnx") as caught:
        load("openvino", tmp_path / "nowhere.onnx")(torch.ones(1))
    assert "\n" not in str(caught.value)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    importlib.import_module("trimtab.lower.openvino")
    monkeypatch.delitem(sys.modules, "trimtab.lower.openvino")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingPackageError, match=r"needs the package 'openvino'; pip install 'trimtab\[openvino\]'"):
        target("openvino")
