"""Files that want to hang or to fill the memory when they are loaded, and files that chance has damaged."""

import copy
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from graph_proofs import widths
from saved_files import closed, opened
from torch import Tensor, nn

from trimtab.errors import ConfigError, TrimtabError
from trimtab.graph import Network, capture, load
from trimtab.graph.storage.stored import MOST_CHARACTERS, MOST_VALUES

HUGE = 10**9
SECONDS, BYTES = 4.0, 200 * 2**20  # of the processor: a core that is shared runs at half its speed
Spoil = Callable[[dict[str, Any]], Any]


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        a, b = F.relu(self.norm(self.conv(x))).split([1, 3], 1)
        return {"y": self.out(torch.cat([b, a], 1).mean((2, 3)).view(x.shape[0], 4))}


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("hostile") / "network"
    capture(Small(), torch.randn(3, 2, 5, 5)).save(path)
    return path.read_bytes()


def loaded(content: bytes, tmp_path: Path) -> Network:
    (tmp_path / "network").write_bytes(content)
    return load(tmp_path / "network")


def calls(network: dict[str, Any], *targets: tuple[str, list[Any]]) -> None:
    """Calls after the input: "x" stands for the input, "last" for the call before."""
    nodes = network["nodes"]
    at = next(i for i, entry in enumerate(nodes) if entry["op"] == "placeholder")

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            by = len(targets) if "node" in value and value["node"] > at else 0
            return {key: inner + by if key == "node" else moved(inner) for key, inner in value.items()}
        return [moved(item) for item in value] if isinstance(value, list) else value

    for entry in nodes[at + 1 :]:
        entry["args"] = moved(entry["args"])

    def told(value: Any, last: int) -> Any:
        if value in ("x", "last"):
            return {"node": at if value == "x" else last}
        return [told(item, last) for item in value] if isinstance(value, list) else value

    nodes[at + 1 : at + 1] = [
        {"op": "call_function", "name": f"evil{i}", "target": target, "args": told(args, at + i)}
        for i, (target, args) in enumerate(targets)
    ]


def squared(network: dict[str, Any]) -> None:
    calls(network, ("aten.sym_size.int", ["x", 1]), *[("operator.mul", ["last", "last"])] * 60)


def grown(operator: str, *more: Any) -> Spoil:
    """A huge view of the input, and an operator on it."""
    return lambda n: calls(
        n,
        ("aten.select.int", ["x", 3, 0]),
        ("aten.select.int", ["last", 2, 0]),
        ("aten.select.int", ["last", 1, 0]),
        ("aten.unsqueeze.default", ["last", 1]),
        ("aten.expand.default", ["last", [3, HUGE]]),
        (operator, ["last", *more]),
    )


def recurrent(n: dict[str, Any]) -> None:
    calls(
        n,
        ("aten.zeros.default", [[1, 1, 1]]),
        ("aten.expand.default", ["last", [1, HUGE, 1]]),
        ("aten.zeros.default", [[3, 1]]),
    )
    nodes = n["nodes"]
    at = next(i for i, entry in enumerate(nodes) if entry["name"] == "evil2")
    weights = [{"node": at}, {"node": at}]
    args = [{"node": at - 1}, {"node": at - 2}, weights, False, 1, 0.0, False, False, True]
    nodes[at]["name"] = "weight"
    nodes.insert(at + 1, {"op": "call_function", "name": "evil", "target": "aten.gru.input", "args": args})


HOSTILE: dict[str, tuple[Spoil, str]] = {
    "integers squared": (squared, r"node 'evil\d' \(operator.mul\): its integer are? at most"),
    "a long integer": (lambda n: calls(n, ("operator.add", [10**4000, 1])), "node 'evil0'.*integer"),
    "a list multiplied": (
        lambda n: calls(n, ("aten.split.Tensor", ["x", 1, 0]), ("operator.mul", ["last", HUGE])),
        r"node 'evil1' \(operator.mul\): it takes numbers, got (list|tuple), int",
    ),
    "a tensor multiplied": (
        lambda n: calls(n, ("operator.mul", ["x", 2])),
        r"node 'evil0' \(operator.mul\): it takes numbers, got FakeTensor, int",
    ),
    "divided by zero": (lambda n: calls(n, ("operator.floordiv", [1, 0])), "node 'evil0'.*ZeroDivisionError"),
    "too few numbers": (lambda n: calls(n, ("operator.mul", [3])), "node 'evil0': its operator does not take these"),
    "power": (lambda n: calls(n, ("operator.pow", [9, 9])), "node 'evil0': operator 'operator.pow' is not allowed"),
    "shifted": (lambda n: calls(n, ("operator.lshift", [1, HUGE])), "'operator.lshift' is not allowed"),
    "split into single positions": (
        grown("aten.split.Tensor", 1, 1),
        r"node 'evil5' \(aten.split.Tensor\): tensors that it returns are at most 8192, got 1000000000",
    ),
    "unbound": (grown("aten.unbind.int", 1), "node 'evil5'.*tensors that it returns"),
    "sections": (
        lambda n: calls(n, ("aten.tensor_split.sections", ["x", HUGE])),
        "node 'evil0'.*tensors that it returns",
    ),
    "recurrent": (recurrent, r"node 'evil' \(aten.gru.input\): steps"),
    "a huge constant": (
        lambda n: calls(n, ("aten.ones.default", [[HUGE, HUGE]])),
        "node 'evil0'.*numbers of its output are at most",
    ),
    "sizes overflow": (lambda n: calls(n, ("aten.ones.default", [[HUGE, HUGE, HUGE]])), "node 'evil0'"),
    "data dependent": (
        lambda n: calls(n, ("aten.nonzero.default", ["x"])),
        r"node 'evil0' \(aten.nonzero.default\): cannot run on the example: DynamicOutputShapeException",
    ),
    "read as a number": (
        lambda n: calls(n, ("aten.sum.default", ["x"]), ("aten.item.default", ["last"])),
        "node 'evil1'.*cannot run",
    ),
    "example of a gigabyte": (lambda n: n["example"][0].update(shape=[3, 2, 2**13, 2**13]), "example input 0: all"),
    "example of many dimensions": (
        lambda n: n["example"][0].update(shape=[1] * 10_000),
        "example input 0: has at most",
    ),
    "wide example": (lambda n: n["example"][0].update(dtype="float64", shape=[3, 2, 2000, 2000]), "example input 0"),
    "strange example": (lambda n: n["example"][0].update(dtype="complex64"), "complex64 must be stored"),
    "strange numbers": (lambda n: n["example"][0].update(dtype="quint4x2"), "quint4x2 must be stored"),
    "nested arguments": (
        lambda n: n["nodes"][-1].update(args=json.loads("[" * 150 + "]" * 150)),
        "outputs: the graph has 0|output",
    ),
    "deep output tree": (
        lambda n: n.update(out_tree='[1, {"type": "builtins.tuple", "context": null, "children_spec": [' * 3000),
        "outputs: not a structure",
    ),
    "own input": (
        lambda n: calls(n, ("aten.relu.default", [{"node": 10_000}])),
        "node 'evil0': cannot read the argument",
    ),
    "cycle": (
        lambda n: (calls(n, ("aten.relu.default", ["x"]), ("aten.relu.default", ["last"])), _swap(n)),
        "node 'evil0': cannot read the argument",
    ),
    "unknown operator": (
        lambda n: calls(n, ("aten.relu.evil", ["x"])),
        "node 'evil0': unknown operator 'aten.relu.evil'",
    ),
    "another type": (lambda n: calls(n, ("aten.relu.default", ["x x"])), "node 'evil0'"),
    "many numbers for nodes": (lambda n: n.update(nodes=[1] * 250_000), "nodes.0: Input should be an object"),
    "many empty nodes": (lambda n: n.update(nodes=[{}] * 250_000), "nodes"),
    "many nodes": (
        lambda n: n.update(nodes=[{"op": "get_attr", "name": f"a{i}", "target": "out.bias"} for i in range(40_000)]),
        "nodes: Tuple should have at most 32768 items",
    ),
    "many keys": (lambda n: n.update({f"k{i}": 1 for i in range(250_000)}), "an object has at most 64 keys"),
    "many arguments": (lambda n: n["nodes"][-1].update(args=[[[]] * 250_000]), "node 'output': a list has at most"),
    "many values": (lambda n: n["nodes"][-1].update(args=[[1] * 800_000]), "at most .* values"),
    "many strange shapes": (lambda n: n["example"][0].update(shape=["a"] * 250_000), "example.0.shape.0"),
    "many strange inputs": (lambda n: n.update(inputs=[1] * 250_000), "inputs.0"),
    "many characters": (lambda n: n.update(fingerprint="a" * 2**24), "at most .* characters"),
}


def _swap(network: dict[str, Any]) -> None:
    """Makes the first of two calls read the second."""
    at = next(i for i, entry in enumerate(network["nodes"]) if entry["name"] == "evil0")
    network["nodes"][at]["args"] = [{"node": at + 1}]


def peak() -> int:
    """Bytes of the largest memory of this process since the last call of `forget`."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def forget() -> None:
    Path("/proc/self/clear_refs").write_text("5")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of the memory is read on Linux")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_fast_and_in_little_memory(name: str, content: bytes, tmp_path: Path) -> None:
    spoil, words = HOSTILE[name]
    header, network, numbers = opened(content)
    assert isinstance(loaded(closed(header, network, numbers), tmp_path), Network)
    spoil(network)
    (tmp_path / "network").write_bytes(closed(header, network, numbers))
    forget()
    before, since = peak(), time.process_time()
    with pytest.raises(TrimtabError, match=words) as caught:
        load(tmp_path / "network")
    assert time.process_time() - since < SECONDS
    assert peak() - before < BYTES
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("text", ["", "[", "nul", "[" * 100_000, "1" * 5000, "{}", "[]", "3", '{"schema": 1}', "\x00"])
def test_a_header_that_is_no_network_is_refused(text: str, content: bytes, tmp_path: Path) -> None:
    header, _, numbers = opened(content)
    with pytest.raises(ConfigError) as caught:
        loaded(closed(header, text, numbers), tmp_path)
    assert "\n" not in str(caught.value)


def _places(value: Any) -> list[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in items for place in ((value, key), *_places(inner))]


def _mutated(network: dict[str, Any], draw: random.Random) -> None:
    """One or several changes: another operator, another place's value, a number, a swap, a deletion."""
    operators = ["aten.expand.default", "aten.unbind.int", "operator.mul", "aten.ones.default", "aten.cat.default"]
    values = [HUGE, -1, 2**63, 1e300, True, None, "", [], {}, [[1, [2]]], {"tuple": []}, {"node": 9}, {"float": "nan"}]
    for _ in range(draw.choice((1, 1, 2, 5))):
        container, key = draw.choice(_places(network))
        other, place = draw.choice(_places(network))
        match draw.randrange(5):
            case 0:
                container, key = draw.choice(
                    [place for place in _places(network) if place[1] == "target"] or [({}, "")]
                )
                container[key] = draw.choice(operators)
            case 1:
                container[key] = copy.deepcopy(other[place])
            case 2:
                container[key] = copy.deepcopy(draw.choice(values))
            case 3 if isinstance(container, list):
                container.insert(draw.randrange(len(container) + 1), copy.deepcopy(container[key]))
            case _:
                del container[key]


def test_chance_in_the_json_gives_the_same_network_or_an_error(content: bytes, tmp_path: Path) -> None:
    draw = random.Random()
    seed = draw.randrange(2**32)
    draw.seed(seed)
    header, original, numbers = opened(content)
    wanted = loaded(content, tmp_path)
    refused = 0
    for i in range(300):
        network = copy.deepcopy(original)
        _mutated(network, draw)
        since = time.process_time()
        try:
            found = loaded(closed(header, network, numbers), tmp_path)
            assert found.fingerprint == wanted.fingerprint, (seed, i)
            assert widths(found) == widths(wanted), (seed, i)
        except TrimtabError as error:
            refused += "\n" not in str(error)
        assert time.process_time() - since < SECONDS, (seed, i)
    assert refused > 150, seed


def test_chance_in_the_bytes_gives_a_network_or_an_error(content: bytes, tmp_path: Path) -> None:
    draw = random.Random()
    seed = draw.randrange(2**32)
    draw.seed(seed)
    refused = 0
    for _ in range(300):
        spoiled = bytearray(content)
        match draw.randrange(4):
            case 0:
                del spoiled[draw.randrange(len(spoiled)) :]
            case 1:
                del spoiled[(at := draw.randrange(len(spoiled))) : at + draw.randrange(1, 100)]
            case 2:
                spoiled += draw.randbytes(draw.randrange(1, 100))
            case _:
                spoiled[draw.randrange(len(spoiled))] ^= 1 << draw.randrange(8)
        try:
            loaded(bytes(spoiled), tmp_path)
        except TrimtabError as error:
            refused += "\n" not in str(error)
    assert refused > 150, seed


def test_a_deep_network_is_far_from_the_limits(tmp_path: Path) -> None:
    network = capture(nn.Sequential(*[nn.Linear(3, 3) for _ in range(100)]), torch.randn(3, 3))
    network.save(tmp_path / "deep")
    assert load(tmp_path / "deep").fingerprint == network.fingerprint
    text = json.dumps(opened((tmp_path / "deep").read_bytes())[1])
    assert len(text) < MOST_CHARACTERS / 50
    assert text.count(",") < MOST_VALUES / 50
