"""Deep Compression by its own three steps: prune, share weights, Huffman; in a file of its own format, to compare with.

Source: Han, Mao & Dally 2016, "Deep Compression: Compressing Deep Neural Networks with Pruning, Trained Quantization
and Huffman Coding".
"""

import heapq
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import trimtab as tt
from harness import Claim
from pruning.lenets import trained
from trimtab.measure import evaluate
from trimtab.plan import PER_TENSOR, Gradual, LayerDecision, Plan, Scheme, Weights
from trimtab.prepare import hold_plan
from trimtab.recover import Settings

PROTOCOL = """\
Deep Compression: LeNets trained here, then the paper's three steps with its shares and bits (tables 2 and 3): weights
pruned by magnitude layer by layer, on the way down in twenty epochs without a teacher; as many shared values as the
bits allow, trained for five epochs; Huffman codes of values and of the gaps between weights. Its file: shared values
and biases in 32 bits, a byte for each code's length, no architecture, as in the paper. Read back before it is judged.
"""


@dataclass(frozen=True)
class Case:
    """What each layer keeps (a share) and the bits of its shared values; the paper's own result."""

    kept: dict[str, float]
    bits: dict[str, int]
    times: float
    accuracy: float


CASES = {
    "LeNet-300-100": Case({"fc1": 0.08, "fc2": 0.09, "fc3": 0.26}, dict.fromkeys(("fc1", "fc2", "fc3"), 6), 40, 98.42),
    "LeNet-5": Case(
        {"conv1": 0.66, "conv2": 0.12, "fc1": 0.08, "fc2": 0.19},
        {"conv1": 8, "conv2": 8, "fc1": 5, "fc2": 5},
        39,
        99.26,
    ),
}
PRUNED, SHARED = 20, 5
PRUNING = Settings(learning_rate=1e-3, weight_decay=1e-4, distillation=0.0, precision="float32")
SHARING = Settings(learning_rate=3e-4, weight_decay=0.0, distillation=0.0, precision="float32")
GAP_BITS = 5
_LAYER = struct.Struct("<IH")

Integers = NDArray[np.int64]


def run(name: str, *, folder: Path, epochs: tuple[int, int] = (PRUNED, SHARED)) -> list[dict[str, Any]]:
    """One row: bytes and accuracy."""
    case = CASES[name]
    dense, digits = trained(name, seed=0, folder=folder)
    pruning = {layer: Weights(fraction=1 - share) for layer, share in case.kept.items()}
    pruned = Plan(
        fingerprint=dense.fingerprint,
        target="onnxruntime",
        layers=tuple(LayerDecision(layer=layer, sparsity=sparsity) for layer, sparsity in pruning.items()),
    )
    prepared = tt.prepare(dense, None, pruned, schedule=Gradual(stop=0.5))
    sparse = tt.recover(prepared, digits, epochs=epochs[0], settings=PRUNING).network
    schemes = {layer: Scheme(grid="codebook", bits=bits, granularity=PER_TENSOR) for layer, bits in case.bits.items()}
    shared = pruned.model_copy(
        update={
            "layers": tuple(
                LayerDecision(layer=layer, sparsity=pruning[layer], weight=scheme) for layer, scheme in schemes.items()
            )
        }
    )
    held = hold_plan(tt.apply(sparse, shared), shared)
    network = tt.recover(held, digits, epochs=epochs[1], settings=SHARING).network.dequantize()
    path = folder / f"{name}.deep-compression"
    path.write_bytes(encode(list(network.module.parameters())))
    with torch.no_grad():
        for parameter, read in zip(
            network.module.parameters(), decode(path.read_bytes(), list(network.module.parameters())), strict=True
        ):
            parameter.copy_(read)
    whole = 4 * sum(parameter.numel() for parameter in dense.parameters())
    return [
        {
            "Deep Compression of": name,
            "bytes": path.stat().st_size,
            "times smaller": whole / path.stat().st_size,
            "accuracy, test %": 100 * evaluate(network, digits.test, digits.metric).value,
            "original, test %": 100 * evaluate(dense, digits.test, digits.metric).value,
            "paper: times smaller": case.times,
            "paper: accuracy, test %": case.accuracy,
        }
    ]


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """None: a row to compare with."""
    return []


def encode(tensors: Sequence[Tensor]) -> bytes:
    """Weights by Huffman codes of their values and gaps, tensors of one dimension as they are."""
    return b"".join(
        _encode_weight(tensor.detach()) if tensor.dim() > 1 else tensor.detach().numpy().astype("<f4").tobytes()
        for tensor in tensors
    )


def decode(content: bytes, shapes: Sequence[Tensor]) -> Iterator[Tensor]:
    """What `encode` was given; the shapes are known."""
    at = 0
    for like in shapes:
        if like.dim() > 1:
            values, at = _decode_weight(content, at, like.numel())
        else:
            values, at = np.frombuffer(content, "<f4", like.numel(), at), at + 4 * like.numel()
        yield torch.from_numpy(values.copy()).view(like.shape)


def _encode_weight(weight: Tensor) -> bytes:
    flat = weight.flatten().numpy().astype("<f4")
    values = np.unique(flat[flat != 0])
    gaps, symbols, last = [], [], -1
    for place in np.flatnonzero(flat):
        while place - last > 2**GAP_BITS:  # a zero between, so that the gap fits
            last += 2**GAP_BITS
            gaps.append(2**GAP_BITS - 1)
            symbols.append(len(values))
        gaps.append(place - last - 1)
        symbols.append(int(np.searchsorted(values, flat[place])))
        last = place
    head = _LAYER.pack(len(symbols), len(values)) + values.tobytes()
    return head + _huffman(np.array(symbols), len(values) + 1) + _huffman(np.array(gaps), 2**GAP_BITS)


def _decode_weight(content: bytes, at: int, size: int) -> tuple[NDArray[np.float32], int]:
    number, count = _LAYER.unpack_from(content, at)
    at += _LAYER.size
    values = np.append(np.frombuffer(content, "<f4", count, at), np.float32(0))
    symbols, at = _read_huffman(content, at + 4 * count, count + 1, number)
    gaps, at = _read_huffman(content, at, 2**GAP_BITS, number)
    flat = np.zeros(size, np.float32)
    flat[np.cumsum(gaps + 1) - 1] = values[symbols]
    return flat, at


def _huffman(symbols: Integers, kinds: int) -> bytes:
    """A byte for the length of each symbol's code, then the codes."""
    lengths = code_lengths(np.bincount(symbols, minlength=kinds))
    codes = _canonical(lengths)
    bits = "".join(codes[symbol] for symbol in symbols.tolist())
    return bytes(lengths.tolist()) + np.packbits(np.frombuffer(bits.encode(), np.uint8) - ord("0")).tobytes()


def _read_huffman(content: bytes, at: int, kinds: int, number: int) -> tuple[Integers, int]:
    lengths = np.frombuffer(content, np.uint8, kinds, at).astype(np.int64)
    symbol_of = {code: symbol for symbol, code in _canonical(lengths).items()}
    found, begin, read = [], at + kinds, 0
    bits = np.unpackbits(np.frombuffer(content, np.uint8, offset=begin)).astype("U1")
    while len(found) < number:
        code = ""
        while code not in symbol_of:
            code += bits[read]
            read += 1
        found.append(symbol_of[code])
    return np.array(found), begin + -(-read // 8)


def code_lengths(counts: Integers) -> Integers:
    """Bits of each symbol's Huffman code; 0 where it never occurs."""
    lengths = np.zeros(len(counts), np.int64)
    heap = [(int(count), symbol, [symbol]) for symbol, count in enumerate(counts) if count]
    if len(heap) == 1:
        lengths[heap[0][1]] = 1
    heapq.heapify(heap)
    while len(heap) > 1:
        (few, _, first), (more, number, second) = heapq.heappop(heap), heapq.heappop(heap)
        lengths[first + second] += 1
        heapq.heappush(heap, (few + more, number, first + second))
    return lengths


def _canonical(lengths: Integers) -> dict[int, str]:
    """Codes that follow from their lengths: in order of length, then of symbol."""
    found, code, before = {}, 0, 0
    for length, symbol in sorted((int(length), symbol) for symbol, length in enumerate(lengths) if length):
        code <<= length - before
        found[symbol] = format(code, f"0{length}b")
        code, before = code + 1, length
    return found
