"""A network as a `.trim` file, the smallest that runs, and back. Nothing in the file is code."""

import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch.fx import GraphModule, Node

from trimtab.errors import ConfigError, TrimtabError
from trimtab.graph import Network
from trimtab.graph import load as load_network
from trimtab.graph.analysis import attribute, owner_of
from trimtab.graph.layers import OPERATORS as LAYERS
from trimtab.graph.storage.save import describe, rebuild
from trimtab.graph.storage.stored import limited_json
from trimtab.plan import StoredPart
from trimtab.quant import fold, is_folded
from trimtab.quant.ops import DEQUANTIZE, QUANTIZE
from trimtab.run import atomic_write
from trimtab.store import payload
from trimtab.store.container import MAGIC, Parts, join, split
from trimtab.store.floats import DTYPES, rounded
from trimtab.store.header import Description, compact, deflate, expand, inflate
from trimtab.store.naming import named, numbered, roles
from trimtab.tasks.switches import quiet
from trimtab.tasks.task import evaluating

PRECISION = 8
"""Bits of the mantissa of scales and biases: each moves by at most 0.2 %."""

Kind = Literal["values", "positions", "scales", "biases", "other"]
_KINDS: dict[str, Kind] = {"codes": "values", "weight": "values", "scale": "scales", "zero": "scales", "bias": "biases"}
_REMEDY = "give a file of `trimtab pack`"


@dataclass(frozen=True)
class Packed:
    """A file that was written, and where its bytes went (to about 4 of them a part)."""

    path: Path
    bytes: int
    parts: tuple[StoredPart, ...]
    quantized: bool

    def of(self, kind: str) -> float:
        """Bytes of one kind."""
        return sum(part.bytes for part in self.parts if part.kind == kind)


def pack(network: Network, path: str | Path, *, precision: int = PRECISION) -> Packed:
    """Write a network to one file that `load` reads: entropy-coded integers where it is quantized, else as it is.

    Batch norm is folded and codes are exact; scales and biases of quantized layers keep `precision` bits of their
    mantissas (1 to 23). A network in which nothing is quantized is kept bit for bit. Example inputs are kept in shape
    only, unless they are integers.
    Raises: ConfigError, as `Network.save` does.
    """
    if not 1 <= precision <= 23:
        raise ConfigError(f"precision: bits of a mantissa are 1 to 23, got {precision}; take 8")
    quantized = is_folded(network.module) or any(node.op == "call_module" for node in network.module.graph.nodes)
    if quantized:
        with evaluating(network):
            network = Network(fold(network.module), network.example)
        _forget_unread(network.module)
        _round(network.module, precision)
    layers = {node.name: str(node.meta["layer"]) for node in network.module.graph.nodes if "layer" in node.meta}
    header, numbers = describe(network)
    description = Description(header, layers)
    if quantized:
        description, names = numbered(description)
        numbers |= {new: numbers[old] for new, old in names.items() if old in numbers}
    text = json.dumps(compact(description), separators=(",", ":"))
    coded, sizes = payload.write(description.header, numbers, _mark(text))
    parts = Parts(deflate(text), coded)
    atomic_write(Path(path), join(parts))
    return Packed(Path(path), len(join(parts)), tuple(_parts(description, parts, sizes)), quantized)


def _parts(it: Description, parts: Parts, sizes: Mapping[str, payload.Taken]) -> Iterator[StoredPart]:
    """Where the bytes went, by layer and kind."""
    yield StoredPart(layer="", kind="header", bytes=len(join(parts)) - len(parts.payload))
    found: dict[tuple[str, Kind], float] = {}
    read_by = roles(it)
    for name, taken in sizes.items():
        layer, leaf = read_by.get(name, ("", ""))
        for kind, size in ((_KINDS.get(leaf, "other"), taken.values), ("positions", taken.positions)):
            found[layer, kind] = found.get((layer, kind), 0.0) + size
    yield from (StoredPart(layer=layer, kind=kind, bytes=size) for (layer, kind), size in found.items() if size)


def load(path: str | Path) -> Network:
    """The network of a `.trim` file, or of a file of `Network.save`. Runs no code of the file.

    A quantized one comes back folded: it computes with dequantized codes, and lowers to the integers that it was.
    Raises: ConfigError that names the place for a file that is damaged, hostile, or newer than this trimtab.
    """
    content = _content(path)
    if not content.startswith(MAGIC):
        return load_network(path)
    with _named(path), quiet():
        return _unpacked(split(content))


def header_of(path: str | Path) -> dict[str, object]:
    """The header of a `.trim` file as JSON. Raises: ConfigError that names the place, as `load` does."""
    content = _content(path)
    with _named(path):
        return dict(limited_json(inflate(split(content).header), "header"))


def _content(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); {_REMEDY}") from error


@contextmanager
def _named(path: str | Path) -> Iterator[None]:
    """Errors say which file it was."""
    try:
        yield
    except TrimtabError as error:
        raise type(error)(f"{path}: {error}") from error
    except Exception as error:  # torch builds and runs what the file says: anything may come
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{path}: not a network: {type(error).__name__}: {reason}; {_REMEDY}") from error


def _unpacked(parts: Parts) -> Network:
    text = inflate(parts.header)
    description = expand(limited_json(text, "header"))
    header = named(description)
    network = rebuild(header, payload.read(header, parts.payload, _mark(text)))
    for node in network.module.graph.nodes:
        if node.name in description.layers:
            node.meta["layer"] = description.layers[node.name]
    return network


def _mark(text: str) -> int:
    """What a payload says of its header."""
    return zlib.crc32(text.encode()) & 0xFFFF


def _forget_unread(module: GraphModule) -> None:
    """Weights that are in codes now: nobody is to copy them."""
    read = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    for name in [name for name, _ in (*module.named_parameters(), *module.named_buffers()) if name not in read]:
        delattr(*owner_of(module, name))


def _round(module: GraphModule, precision: int) -> None:
    """Scales, and biases of layers with codes, to so many bits."""
    for node in module.graph.nodes:
        if node.target in {DEQUANTIZE, QUANTIZE}:
            reads = [node.args[1]]
        elif node.target in LAYERS and _decodes(node.args[1]):
            reads = list(node.args[2:3])
        else:
            continue
        for read in reads:
            if isinstance(read, Node) and read.op == "get_attr":
                tensor = attribute(module, str(read.target))
                if tensor.dtype in DTYPES:
                    tensor.copy_(rounded(tensor, precision))


def _decodes(value: object) -> bool:
    """Whether a weight comes from codes."""
    while isinstance(value, Node) and value.op == "call_function" and value.target != DEQUANTIZE:
        value = value.args[0]
    return isinstance(value, Node) and value.target == DEQUANTIZE
