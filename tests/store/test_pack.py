"""`.trim` files: the network comes back, computes and lowers as before; other files are refused."""

import json
import math
import random
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference_decoder import ReferenceDecoder
from torch import nn

import trimtab as tt
from int8_nets import INTEGER_NETS, MIXED_NETS, quantized, random_inputs
from recurrent_net import Last
from trimtab.errors import ConfigError, TrimtabError
from trimtab.graph.storage.stored import MOST_CHARACTERS
from trimtab.plan import PER_TENSOR, LayerDecision, Plan, Scheme
from trimtab.store import header_of, load, pack
from trimtab.store.arithmetic import Encoder
from trimtab.store.container import VERSION, Parts, join, split
from trimtab.store.header import deflate, inflate
from trimtab.tasks.task import call

NETS = INTEGER_NETS | MIXED_NETS


class LeNet(nn.Module):
    """LeNet-5 as Caffe has it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 20, 5), nn.Conv2d(20, 50, 5)
        self.fc1, self.fc2 = nn.Linear(800, 500), nn.Linear(500, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(self.conv2(F.max_pool2d(self.conv1(x), 2)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def in_few_bits(model: nn.Module, example: torch.Tensor, bits: int = 4) -> tt.Network:
    """Weights of all layers on one scale a layer; activations stay in float."""
    network = tt.capture(model, example)
    scheme = Scheme(grid="symmetric", bits=bits, granularity=PER_TENSOR)
    layers = tuple(LayerDecision(layer=layer.name, weight=scheme) for layer in network.layers)
    return tt.apply(network, Plan(fingerprint=network.fingerprint, target="onnxruntime", layers=layers))


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> tuple[tt.Network, Path]:
    network = in_few_bits(LeNet(), torch.randn(2, 1, 28, 28))
    return network, pack(network, tmp_path_factory.mktemp("lenet") / "lenet.trim").path


@pytest.mark.parametrize("name", NETS)
def test_an_integer_network_lowers_to_the_same_integers(name, tmp_path):
    make, shapes = NETS[name]
    network = quantized(make(), random_inputs(shapes, 8))
    pack(network, tmp_path / "a.trim", precision=23)
    unpacked = load(tmp_path / "a.trim")
    inputs = random_inputs(shapes, 16)
    runtime = tt.target("onnxruntime")
    before, after = (
        tt.lower(each, runtime, tmp_path / file)(*inputs) for each, file in ((network, "a.onnx"), (unpacked, "b.onnx"))
    )
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    pack(unpacked, tmp_path / "b.trim", precision=23)
    assert (tmp_path / "b.trim").read_bytes() == (tmp_path / "a.trim").read_bytes()


def test_layers_keep_their_names_for_the_proof(tmp_path):
    make, shapes = INTEGER_NETS["residual"]
    network = quantized(make(), random_inputs(shapes, 8))
    pack(network, tmp_path / "a.trim")
    kernels = [
        tt.lower(each, tt.target("onnxruntime"), tmp_path / file).origins.values()
        for each, file in ((network, "a.onnx"), (load(tmp_path / "a.trim"), "b.onnx"))
    ]
    layers = {layer.name for layer in network.layers}
    assert layers <= set(kernels[0])
    assert layers <= set(kernels[1])


def test_a_reader_of_the_specification_reads_a_whole_file(tmp_path):
    class Narrow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(2, 40, 3), nn.Linear(40, 7)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(F.relu(self.first(x)).mean((2, 3)))

    model = Narrow()
    with torch.no_grad():
        model.first.weight *= torch.randn_like(model.first.weight).abs() > 1
    path = pack(in_few_bits(model, torch.randn(3, 2, 6, 6)), tmp_path / "a.trim").path
    parts = split(path.read_bytes())
    header = json.loads(inflate(parts.header))
    reader = ReferenceDecoder(parts.payload)
    assert reader.number(16) == zlib.crc32(inflate(parts.header).encode()) & 0xFFFF
    read = []
    for entry in header["tensors"]:
        *shape, dtype = entry if "int8" in entry else [*entry, "float32"]
        take = reader.integers if dtype == "int8" else reader.floats
        read.append(torch.tensor(take(math.prod(shape), math.prod(shape[1:]))).reshape(shape))
    tensors = list(load(path).named_buffers())
    assert [name.rpartition(".")[2] for name, _ in tensors] == ["codes", "scale", "zero", "bias"] * 2
    for (name, expected), found in zip(tensors, read, strict=True):
        assert torch.equal(found.to(expected.dtype), expected), name


def test_scales_and_biases_keep_the_precision_that_was_asked_for(lenet, tmp_path):
    network, _ = lenet
    x = torch.randn(16, 1, 28, 28)
    moved, sizes = [], []
    expected = network(x).detach()
    for precision in (3, 8, 23):
        sizes.append(pack(network, tmp_path / "a.trim", precision=precision).bytes)
        moved.append(float((load(tmp_path / "a.trim")(x) - expected).norm() / expected.norm()))
    most = 8  # four layers, each with a scale and biases that move by at most half a step of their mantissa
    assert moved[0] < most * 2.0**-4
    assert moved[1] < most * 2.0**-9
    assert moved[0] > moved[2]
    assert moved[2] < 1e-6
    assert sizes == sorted(sizes)
    with pytest.raises(ConfigError, match="bits of a mantissa are 1 to 23, got 0"):
        pack(network, tmp_path / "a.trim", precision=0)


def test_the_header_of_a_lenet_takes_at_most_250_bytes(lenet, tmp_path):
    packed = pack(lenet[0], tmp_path / "a.trim")
    assert packed.of("header") <= 250
    assert packed.bytes == (tmp_path / "a.trim").stat().st_size
    assert sum(part.bytes for part in packed.parts) == pytest.approx(packed.bytes, abs=40)
    assert header_of(tmp_path / "a.trim")["inputs"] == [["x", 3, 1, 28, 28]]


def test_an_unreadable_header_is_one_error_that_names_the_file(lenet, tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.trim: cannot be read"):
        header_of(tmp_path / "gone.trim")
    (tmp_path / "cut.trim").write_bytes(lenet[1].read_bytes()[:20])
    with pytest.raises(ConfigError, match=r"cut\.trim: "):
        header_of(tmp_path / "cut.trim")


def test_codes_take_about_their_entropy(lenet):
    path, bits = lenet[1], 0.0
    for name, codes in load(path).named_buffers():
        if name.endswith(".codes"):
            share = np.unique(codes.numpy(), return_counts=True)[1] / codes.numel()
            bits -= float((share * np.log2(share)).sum()) * codes.numel()
    assert path.stat().st_size < 1.01 * bits / 8 + 1500


def test_a_float_network_comes_back_bit_for_bit(tmp_path):
    network = tt.capture(nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), torch.randn(3, 2, 6, 6))
    assert not pack(network, tmp_path / "a.trim").quantized
    unpacked, x = load(tmp_path / "a.trim"), torch.randn(5, 2, 6, 6)
    assert unpacked.fingerprint == network.fingerprint
    assert torch.equal(unpacked(x), network.eval()(x))
    for name, value in network.state_dict().items():
        assert torch.equal(unpacked.state_dict()[name], value), name


def test_recurrent_networks_and_integer_inputs(tmp_path):
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.last = nn.Embedding(20, 4), Last()

        def forward(self, words: torch.Tensor) -> torch.Tensor:
            return self.last(self.table(words))

    network = tt.capture(Words(), torch.randint(20, (3, 7)))
    pack(network, tmp_path / "a.trim")
    unpacked, words = load(tmp_path / "a.trim"), torch.randint(20, (5, 7))
    assert torch.equal(unpacked(words), network(words))
    assert torch.equal(unpacked.example, network.example)


def test_several_inputs_and_outputs_in_structures(tmp_path):
    class Many(nn.Module):
        def forward(self, a: torch.Tensor, *, b: dict[str, torch.Tensor]) -> dict[str, list[torch.Tensor]]:
            return {"sums": [a + b["x"], a - b["x"]], "other": [a * 2]}

    example = {"a": torch.randn(2, 3), "b": {"x": torch.randn(2, 3)}}
    network = tt.capture(Many(), example)
    assert {part.kind for part in pack(network, tmp_path / "a.trim").parts} == {"header"}
    torch.testing.assert_close(call(load(tmp_path / "a.trim").module, example), call(network.module, example))


def test_load_reads_what_save_wrote(lenet, tmp_path):
    network = tt.capture(LeNet(), torch.randn(2, 1, 28, 28))
    network.save(tmp_path / "network.safetensors")
    assert tt.load(tmp_path / "network.safetensors").fingerprint == network.fingerprint


def test_other_files_and_newer_ones_are_refused(lenet, tmp_path):
    content = lenet[1].read_bytes()
    file = tmp_path / "x.trim"

    def refused(changed: bytes, match: str) -> None:
        file.write_bytes(changed)
        with pytest.raises(ConfigError, match=match):
            load(file)

    refused(content[:-1], "damaged or cut short")
    refused(content[:7], "cut short: 7 bytes")
    refused(content[:4] + bytes([VERSION + 1]) + content[5:], f"has version {VERSION + 1} .* install a newer trimtab")
    refused(b"PK" + content[2:], "not a readable network file")
    parts = split(content)
    refused(join(Parts(parts.header, parts.payload + bytes(range(1, 13)))), "longer than its header says")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.trim")


def test_a_payload_of_another_architecture_is_refused(lenet, tmp_path):
    parts = split(lenet[1].read_bytes())
    other = pack(in_few_bits(nn.Linear(900, 40), torch.randn(3, 900)), tmp_path / "other.trim").path
    (tmp_path / "x.trim").write_bytes(join(Parts(split(other.read_bytes()).header, parts.payload)))
    with pytest.raises(ConfigError, match="its payload is of another architecture"):
        load(tmp_path / "x.trim")


def spoilt(path: Path, change: Callable[[dict[str, list]], object]) -> None:
    """Another header in the file, and a payload that says it belongs to it but holds nothing."""
    header = json.loads(inflate(split(path.read_bytes()).header))
    change(header)
    text = json.dumps(header)
    encoder = Encoder()
    encoder.numbers(np.array([zlib.crc32(text.encode()) & 0xFFFF]), 16, 1)
    path.write_bytes(join(Parts(deflate(text), encoder.finish())))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda h: h["tensors"].append([10**6, 10**6, "int8"]), "holds at most .* numbers"),
        (lambda h: h["tensors"].append([-4, 5, "int8"]), "shape"),
        (lambda h: h["tensors"].append([4, "Tensor"]), "unknown dtype"),
        (lambda h: h["nodes"].__setitem__(0, ["os.system", "'ls"]), "unknown operator"),
        (lambda h: h["nodes"].__setitem__(0, ["from_file", "'/etc/passwd"]), "not allowed"),
        (lambda h: h["nodes"].__setitem__(0, ["relu", "<9"]), "describes no network"),
        (lambda h: h["nodes"].__setitem__(0, ["relu", "<2"]), "describes no network"),
        (lambda h: h["nodes"].__setitem__(0, ["relu", "<0"]), "describes no network"),
        (lambda h: h.update(nodes=[["relu", "<1"]] * 40_000), "at most"),
        (lambda h: h["nodes"].__setitem__(0, ["relu", "@99"]), "tensor 99 of"),
        (lambda h: h["nodes"].__setitem__(0, ["repeat", "<1", [10**6, 10**6]]), "numbers of its output"),
        (lambda h: h["nodes"].pop(), "output"),
        (lambda h: h.pop("tensors"), "describes no network"),
        (lambda h: h["inputs"].__setitem__(0, ["x", 10**9, 10**9]), "bytes"),
        (lambda h: h["inputs"].append(["import", 3]), "Python word"),
    ],
)
def test_headers_that_lie_are_refused_at_once(change, match, tmp_path):
    path = pack(tt.capture(nn.ReLU(), torch.randn(3, 4)), tmp_path / "x.trim").path
    spoilt(path, change)
    begin = time.process_time()
    with pytest.raises(ConfigError, match=match):
        load(path)
    assert time.process_time() - begin < 4


def test_a_header_that_inflates_without_end_is_refused(lenet, tmp_path):
    parts = Parts(deflate(" " * (MOST_CHARACTERS + 1)), b"")
    (tmp_path / "x.trim").write_bytes(join(parts))
    with pytest.raises(ConfigError, match="inflates to more than"):
        load(tmp_path / "x.trim")


def test_mutated_files_give_one_clear_error_or_the_network(tmp_path):
    """Half of them with a checksum that fits, so that what lies behind it is asked too; a benchmark does 10 000."""
    network = quantized(INTEGER_NETS["two inputs"][0](), random_inputs([(6,), (5,)], 8))
    whole = pack(network, tmp_path / "a.trim").path.read_bytes()
    generator, file, x = random.Random(0), tmp_path / "x.trim", random_inputs([(6,), (5,)], 4)
    expected = load(tmp_path / "a.trim")(*x)
    refused = accepted = 0
    for number in range(300):
        content = bytearray(whole)
        for _ in range(generator.randint(1, 3)):
            content[generator.randrange(9, len(content))] = generator.randrange(256)
        if number % 2:
            content[5:9] = zlib.crc32(bytes(content[9:])).to_bytes(4, "little")
        file.write_bytes(content)
        begin = time.process_time()
        try:
            found = load(file)
            if not number % 2:
                assert torch.equal(found(*x), expected)
        except TrimtabError as error:
            refused += str(error).startswith(f"{file}: ") and "\n" not in str(error)
        else:
            accepted += 1
        assert time.process_time() - begin < 5
    assert refused + accepted == 300
    assert refused > 150
