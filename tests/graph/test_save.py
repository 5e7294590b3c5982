"""Networks in files: the round trip is exact, and whatever a file says, nothing but an error in one line comes out."""

import copy
import json
import pickle
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from graph_nets import (
    VGG,
    Autoencoder,
    CifarResNet,
    ConvNet1d,
    Inception,
    LeNet,
    MobileNet,
    ResNeXt,
    Shared,
    randomize,
)
from safetensors import safe_open
from saved_files import closed, opened
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from trimtab.errors import ConfigError, NumericsError, TrimtabError
from trimtab.graph import Network, capture, cut, load, transplant, verify
from trimtab.lower import lower, target
from trimtab.plan import PER_CHANNEL, LayerDecision, Plan, Scheme
from trimtab.quant import insert_fake_quantization
from trimtab.tasks.task import call

IMAGE = torch.randn(3, 3, 16, 16)
SHARED = {"image": torch.randn(3, 2, 6, 6), "vector": torch.randn(3, 5)}


class Odd(nn.Module):
    """A recurrent layer, an embedding, constants of the code, infinity, a buffer that is not saved, a frozen weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.rnn = nn.LSTM(4, 5, batch_first=True, bidirectional=True)
        self.register_buffer("scale", torch.rand(10), persistent=False)
        self.shift = torch.arange(10.0)
        self.embed.weight.requires_grad_(False)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, None, list[Tensor]]:
        x, _ = self.rnn(self.embed(tokens))
        x = x.masked_fill(mask[:, :, None], float("-inf")).amax(1).clamp(-10, float("inf"))
        x = F.dropout(x * self.scale + self.shift + torch.tensor(2.0), 0.3, self.training)
        return x.to(torch.float64), None, [x.sum(1, dtype=torch.float32)]


TOKENS = (torch.randint(0, 7, (3, 6)), torch.arange(6).expand(3, 6) > 3)

NETS = [
    (CifarResNet(8, (4, 8, 8)), IMAGE),
    (MobileNet(), IMAGE),
    (Inception(), IMAGE),
    (ResNeXt(), IMAGE[:, :, :8, :8]),
    (VGG(), IMAGE),
    (ConvNet1d(), (torch.randn(3, 3, 8),)),
    (Autoencoder(), torch.randn(3, 12)),
    (Shared(), SHARED),
    (Odd(), TOKENS),
]


def stored(network: Network, path: Path) -> Network:
    network.save(path)
    return load(path)


def same_outputs(a: Network, b: Network, inputs: Any) -> bool:
    found = []
    for network in (a, b):
        torch.manual_seed(5)
        found.append(pytree.tree_leaves(call(network, inputs)))
    return len(found[0]) == len(found[1]) and all(
        (x is None and y is None) or (x.dtype == y.dtype and torch.equal(x, y))
        for x, y in zip(found[0], found[1], strict=True)
    )


@pytest.mark.parametrize(("model", "example"), NETS, ids=lambda value: type(value).__name__)
def test_the_round_trip_is_exact(model: nn.Module, example: Any, tmp_path: Path) -> None:
    network = capture(randomize(model), example)
    again = stored(network, tmp_path / "network.safetensors")
    assert again.fingerprint == network.fingerprint
    assert (again.groups, again.frozen, again.layers) == (network.groups, network.frozen, network.layers)
    assert list(again.state_dict()) == list(network.state_dict())
    assert [(n, p.requires_grad) for n, p in again.named_parameters()] == [
        (n, p.requires_grad) for n, p in network.named_parameters()
    ]
    places = [[network.source(node) for node in network.module.graph.nodes] for network in (network, again)]
    assert places[0] == places[1]
    inputs = pytree.tree_map(lambda t: t.roll(1, 0).repeat(2, *[1] * (t.dim() - 1)), example)
    structures = [pytree.tree_structure(call(one, inputs)) for one in (network, again)]
    assert structures[0] == structures[1]
    for training in (False, True, False):
        assert same_outputs(network.train(training), again.train(training), inputs)
    for a, b in zip(network.named_buffers(), again.named_buffers(), strict=True):
        assert torch.equal(a[1], b[1])  # the running statistics moved alike


@pytest.mark.parametrize(("model", "example"), [NETS[1], NETS[4], NETS[7]], ids=lambda value: type(value).__name__)
def test_a_loaded_network_is_cut_trained_and_saved_again(model: nn.Module, example: Any, tmp_path: Path) -> None:
    network = capture(randomize(model), example)
    again = stored(network, tmp_path / "a.safetensors")
    kept = {decision.group: decision.kept for decision in Plan.uniform(again).groups}
    assert verify(again, kept).exact
    small, other = cut(again, kept), cut(network, kept)
    assert small.fingerprint == other.fingerprint
    assert same_outputs(small, other, example)
    third = stored(small.train(), tmp_path / "b.safetensors")
    assert third.training
    assert same_outputs(third, small, example)
    sum(t.sum() for t in pytree.tree_leaves(call(third, example))).backward()
    assert all(p.grad is not None for p in third.parameters() if p.requires_grad)
    assert stored(third, tmp_path / "c.safetensors").fingerprint == small.fingerprint


def test_a_loaded_network_is_lowered(tmp_path: Path) -> None:
    again = stored(capture(randomize(VGG()), IMAGE), tmp_path / "a.safetensors")
    artifact = lower(again, target("onnxruntime"), tmp_path / "a.onnx")
    x = torch.randn(5, 3, 16, 16)
    torch.testing.assert_close(artifact(x), again(x), rtol=1e-4, atol=1e-4)


def test_tied_weights_formats_and_types_are_kept(tmp_path: Path) -> None:
    again = stored(capture(Shared(), SHARED), tmp_path / "a")
    assert again.module.get_parameter("out.weight") is again.module.get_parameter("tied.weight")
    double = stored(capture(LeNet(), torch.randn(2, 1, 28, 28)).to(torch.float64), tmp_path / "b")
    assert {p.dtype for p in double.parameters()} == {torch.float64}
    assert double.example.dtype == torch.float64
    last = capture(CifarResNet(8, (4, 8, 8)), IMAGE).to(memory_format=torch.channels_last)
    weight = stored(last, tmp_path / "c").module.get_parameter("layer1.0.conv1.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()


def test_saving_changes_nothing_and_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "network.safetensors"
    network = capture(LeNet(), torch.randn(2, 1, 28, 28)).train()
    before = copy.deepcopy(network.state_dict())
    network.save(path)
    network.save(path)
    assert network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert [p.name for p in path.parent.iterdir()] == ["network.safetensors"]
    assert b"pickle" not in path.read_bytes()


def test_the_users_source_is_not_needed(tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    network = capture(Shared(), SHARED)
    network.save(path)
    expected = call(network, SHARED)["logits"]
    torch.save(SHARED | {"expected": expected.detach()}, tmp_path / "data.pt")
    code = (
        "import sys, torch, trimtab as tt; torch.set_num_threads(1)\n"
        "data = torch.load(sys.argv[2], weights_only=True); expected = data.pop('expected')\n"
        "out = tt.load(sys.argv[1])(**data)['logits']\n"
        "torch.testing.assert_close(out, expected); assert 'graph_nets' not in sys.modules\n"
    )
    command = [sys.executable, "-I", "-c", code, str(path), str(tmp_path / "data.pt")]
    subprocess.run(command, check=True, timeout=120, cwd=tmp_path)


def test_what_cannot_be_saved_says_so(tmp_path: Path) -> None:
    network = capture(LeNet(), torch.randn(2, 1, 28, 28))
    with torch.no_grad():
        network.module.get_parameter("fc1.bias")[3] = float("nan")
    with pytest.raises(NumericsError, match=r"fc1.bias: 1 of 120 values"):
        network.save(tmp_path / "a")
    network = capture(nn.Sequential(nn.Linear(3, 4)), torch.randn(3, 3))
    relu = nn.ReLU()
    relu.elementwise = True
    network.module.add_module("extra", relu)
    output = network.module.graph.output_node()
    (last,) = output.args[0]
    with network.module.graph.inserting_before(output):
        inserted = network.module.graph.call_module("extra", (last,))
    output.args = ((inserted,),)
    network.module.recompile()
    network.refresh()
    with pytest.raises(ConfigError, match="a ReLU inside the graph cannot be saved; save the network without it"):
        network.save(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_a_fake_quantized_network_is_refused_with_the_remedy(tmp_path: Path) -> None:
    model = LeNet()
    network = capture(model, torch.randn(3, 1, 28, 28))
    eight = LayerDecision(layer="conv1", weight=Scheme(grid="symmetric", granularity=PER_CHANNEL))
    insert_fake_quantization(network.module, {"conv1": eight}, target("onnxruntime"))
    network.refresh()
    with pytest.raises(ConfigError, match=r"WeightFakeQuantize inside the graph cannot be saved.*beside its Plan"):
        network.save(tmp_path / "a")
    with pytest.raises(ConfigError, match="WeightFakeQuantize, for which the class has no place"):
        transplant(network, model)


# --- damaged and hostile files ---


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.out = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"y": self.out(F.relu(self.norm(self.conv(x))).mean((2, 3)).view(x.shape[0], 4))}

    path = tmp_path_factory.mktemp("save") / "network"
    capture(Small(), torch.randn(3, 2, 5, 5)).save(path)
    return path.read_bytes()


def node(network: dict[str, Any], operator: str) -> dict[str, Any]:
    return next(entry for entry in network["nodes"] if entry["target"].startswith(operator))


def tensor(network: dict[str, Any], name: str) -> dict[str, Any]:
    return next(entry for entry in network["tensors"] if entry["name"] == name)


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "newer schema": (lambda n: n.update(schema=2), "the file has schema 2, this trimtab reads 1; install a newer"),
    "unknown key": (lambda n: n.update(code="import os"), "code: Extra inputs are not permitted"),
    "no nodes": (lambda n: n.pop("nodes"), "nodes: Field required"),
    "namespace": (lambda n: node(n, "aten.conv2d").update(target="os.system.default"), "is not allowed"),
    "builtin": (lambda n: node(n, "aten.conv2d").update(target="builtins.eval"), "is not allowed"),
    "attribute": (lambda n: node(n, "aten.conv2d").update(target="aten.__class__.default"), "unknown operator"),
    "dunder": (lambda n: node(n, "aten.conv2d").update(target="aten.conv2d.__call__"), "unknown operator"),
    "unknown": (lambda n: node(n, "aten.conv2d").update(target="aten.conv9d.default"), "unknown operator"),
    "writes files": (lambda n: node(n, "aten.conv2d").update(target="aten.save.default"), "not allowed in a file"),
    "maps files": (lambda n: node(n, "aten.conv2d").update(target="aten.from_file.default"), "not allowed in a file"),
    "private": (
        lambda n: node(n, "aten.conv2d").update(target="aten._sparse_coo_tensor_unsafe.default"),
        "not allowed in a file",
    ),
    "call_module": (lambda n: node(n, "aten.conv2d").update(op="call_module"), "op: Input should be"),
    "forward reference": (lambda n: node(n, "aten.conv2d").update(args=[{"node": 900}]), "cannot read the argument"),
    "self reference": (
        lambda n: n["nodes"][10].update(op="call_function", target="aten.relu.default", args=[{"node": 10}]),
        "cannot read the argument",
    ),
    "negative reference": (lambda n: node(n, "aten.conv2d").update(args=[{"node": -1}]), "cannot read the argument"),
    "boolean reference": (lambda n: node(n, "aten.conv2d").update(args=[{"node": True}]), "cannot read the argument"),
    "strange argument": (lambda n: node(n, "aten.conv2d").update(args=[{"code": "x"}]), "cannot read the argument"),
    "strange dtype": (lambda n: node(n, "aten.mean").update(args=[{"dtype": "load"}]), "unknown dtype 'load'"),
    "strange keyword": (lambda n: node(n, "aten.relu").update(kwargs={"a=0):\n  x": 1}), "does not take these"),
    "dunder path": (lambda n: tensor(n, "conv.weight").update(name="__class__.weight"), "is missing|joined by dots"),
    "get_attr dunder": (lambda n: node(n, "conv.weight").update(target="__class__"), "no tensor '__class__'"),
    "get_attr code": (lambda n: node(n, "conv.weight").update(target='a").x; import os; ("'), "no tensor"),
    "placeholder code": (
        lambda n: (node(n, "x").update(target="x=__import__('os')"), n.update(inputs=["x=__import__('os')"])),
        "an input's name is a Python word",
    ),
    "argument code": (lambda n: n.update(inputs=["x=print(1)"]), "an input's name is a Python word"),
    "argument shadows": (lambda n: n.update(inputs=["torch"]), "an input's name is a Python word"),
    "node name code": (lambda n: node(n, "aten.relu").update(name="a; import os"), "is taken or no Python word"),
    "node name twice": (lambda n: node(n, "aten.relu").update(name="conv2d"), "is taken or no Python word"),
    "tree class": (
        lambda n: n.update(out_tree=n["out_tree"].replace("builtins.dict", "os.system")),
        "only dict, list and tuple can be saved, got os.system",
    ),
    "tree garbage": (lambda n: n.update(in_tree="[1, {"), "not a structure"),
    "tree depth": (lambda n: n.update(in_tree="[" * 100_000), "not a structure"),
    "fewer outputs": (lambda n: n["nodes"][-1].update(args=[[]]), "outputs: the graph has 0, the structure 1"),
    "no output": (lambda n: n["nodes"].pop(), "the last node, and no other, is the output"),
    "nothing": (lambda n: n.update(nodes=[]), "TypeError|IndexError|output"),
    "missing tensor": (lambda n: n["tensors"].append(tensor(n, "out.bias") | {"name": "more"}), "'more' is missing"),
    "tensor too many": (lambda n: n["tensors"].remove(tensor(n, "out.bias")), "'out.bias' is not of the network"),
    "wrong shape": (lambda n: tensor(n, "out.weight").update(shape=[2, 5]), r"must be float32 \[2, 5\], got float32"),
    "wrong type": (lambda n: tensor(n, "out.weight").update(dtype="float16"), "must be float16"),
    "tie to nothing": (lambda n: n["tensors"].append(tensor(n, "out.bias") | {"name": "z", "same_as": "q"}), "q"),
    "overwrites": (
        lambda n: n["tensors"].append(tensor(n, "out.bias") | {"name": "forward", "same_as": "out.bias"}),
        "the name is taken",
    ),
    "overwrites submodule": (
        lambda n: n["tensors"].append(tensor(n, "out.bias") | {"name": "graph.x", "same_as": "out.bias"}),
        "graph",
    ),
    "shapes that do not meet": (
        lambda n: n["example"][0].update(shape=[3, 5, 5, 5]),
        r"node 'conv2d' \(aten.conv2d.default\): cannot run on the example",
    ),
    "huge example": (lambda n: n["example"][0].update(shape=[1, 10**12, 5, 5]), "must have at most"),
    "many rows": (lambda n: n["example"][0].update(shape=[65, 2, 5, 5]), "of 1 to 64 rows"),
    "changed constant": (
        lambda n: node(n, "aten.batch_norm").update(
            args=[0.3 if a == 0.1 else a for a in node(n, "aten.batch_norm")["args"]]
        ),
        "fingerprint: the graph is not the one that was saved",
    ),
    "no such mode": (lambda n: node(n, "aten.relu").update(switch="training"), "no mode 'training'"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_with_its_place(name: str, content: bytes, tmp_path: Path) -> None:
    spoil, words = HOSTILE[name]
    header, network, numbers = opened(content)
    assert isinstance(_load(closed(header, network, numbers), tmp_path), Network)
    spoil(network)
    with pytest.raises(TrimtabError, match=words) as caught:
        _load(closed(header, network, numbers), tmp_path)
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)


def _load(content: bytes, tmp_path: Path) -> Network:
    path = tmp_path / "network.safetensors"
    path.write_bytes(content)
    return load(path)


def test_nan_in_the_numbers_is_named(content: bytes, tmp_path: Path) -> None:
    header, network, numbers = opened(content)
    at = header["out.bias"]["data_offsets"][0]
    spoiled = numbers[:at] + struct.pack("<f", float("nan")) + numbers[at + 4 :]
    with pytest.raises(NumericsError, match=r"tensor 'out.bias': 1 of 2 values are NaN"):
        _load(closed(header, network, spoiled), tmp_path)


class _Executes:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("executed"),))


def test_pickles_and_other_files_are_refused(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": _Executes()}, "zip")
    others = [pickle.dumps(_Executes()), Path("zip").read_bytes(), b"", b"\x00" * 100, content[:50], content[:-3]]
    for other in others:
        with pytest.raises(ConfigError, match="not a readable network file"):
            _load(other, tmp_path)
    with pytest.raises(ConfigError, match="not a readable network file"):
        load(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="not a readable network file"):
        load(tmp_path)
    assert not Path("executed").exists()


def test_tensors_without_a_network_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "a")
    with pytest.raises(ConfigError, match="holds tensors but no network"):
        load(tmp_path / "a")


def _places(value: Any) -> list[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in items for place in ((value, key), *_places(inner))]


def test_any_change_of_the_json_loads_the_same_network_or_is_an_error(content: bytes, tmp_path: Path) -> None:
    draw = random.Random(7)
    values = [
        None,
        True,
        -1,
        0,
        3,
        10**30,
        1.5,
        "",
        "x",
        "__class__",
        [],
        {},
        [[]],
        {"node": 0},
        {"tuple": [{"node": 0}]},
    ]
    header, original, numbers = opened(content)
    wanted = original["fingerprint"]
    refused = 0
    for _ in range(250):
        network = copy.deepcopy(original)
        container, key = draw.choice(_places(network))
        if draw.random() < 0.2:
            del container[key]
        else:
            container[key] = draw.choice(values)
        try:
            assert _load(closed(header, network, numbers), tmp_path).fingerprint == wanted
        except TrimtabError as error:
            refused += "\n" not in str(error)
    assert refused > 150


def test_any_change_of_the_bytes_loads_or_is_an_error(content: bytes, tmp_path: Path) -> None:
    draw = random.Random(11)
    refused = 0
    for _ in range(250):
        spoiled = bytearray(content)
        for _ in range(draw.choice((1, 1, 8))):
            spoiled[draw.randrange(len(spoiled))] = draw.randrange(256)
        try:
            _load(bytes(spoiled), tmp_path)
        except TrimtabError as error:
            refused += "\n" not in str(error)
    assert refused > 100


def test_the_header_is_plain_json(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    with safe_open(tmp_path / "a", framework="pt") as file:
        network = json.loads(file.metadata()["trimtab.network"])
    assert node(network, "aten.conv2d")["target"] == "aten.conv2d.default"
    assert {entry["op"] for entry in network["nodes"]} == {"placeholder", "get_attr", "call_function", "output"}
