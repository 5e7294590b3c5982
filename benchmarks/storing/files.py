"""What a file is as a file: how fast it is written and read, in how much memory, and what becomes of spoilt ones."""

import random
import resource
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

import trimtab as tt
from harness import Claim
from pruning.digits import LeNet5
from trimtab.errors import TrimtabError
from trimtab.graph.storage.save import describe
from trimtab.graph.storage.stored import Stored
from trimtab.plan import PER_CHANNEL, LayerDecision, Plan, Scheme
from trimtab.quant import fold
from trimtab.store import payload
from trimtab.store.header import Description
from trimtab.store.naming import numbered

PROTOCOL = """\
Speed: a layer of 2048 × 2048 weights in 4 bits (a scale a channel, nearest rounding), one thread, medians of five, in
megabytes of its float32 weights a second: the arithmetic code alone, and `pack` and `load` whole, with folding, checks
and file. Memory: how much a process grows at most while it packs (loads) a layer of 4096 × 4096 that it has made (after
the imports), over its float32 bytes. Spoilt files: a LeNet-5 with 4-bit weights, 10 000 times one to
eight bytes changed, some cut off or put in, at random (seed 0), half of them with a checksum that fits; each is refused
or loaded (another error ends the part) in at most 5 s and 1 GB. Header: of a LeNet-5 with 4-bit weights.
"""
ENCODE, DECODE, MEMORY, HEADER = 2.0, 20.0, 2.0, 250
MUTATIONS, SECONDS, GIGABYTES, SEED = 10_000, 5.0, 1.0, 0
_HEADER_AT, _CHECKSUM = 9, slice(5, 9)


def in_few_bits(model: nn.Module, example: torch.Tensor, bits: int = 4) -> tt.Network:
    """Weights of all layers rounded to the nearest."""
    network = tt.capture(model, example)
    scheme = Scheme(grid="symmetric", bits=bits, granularity=PER_CHANNEL)
    layers = tuple(LayerDecision(layer=layer.name, weight=scheme) for layer in network.layers)
    return tt.apply(network, Plan(fingerprint=network.fingerprint, target="onnxruntime", layers=layers))


def wide(side: int) -> tt.Network:
    """One layer of side² weights."""
    torch.manual_seed(SEED)
    return in_few_bits(nn.Linear(side, side), torch.randn(2, side))


def run_speed(*, folder: Path, side: int = 2048, times: int = 5) -> list[dict[str, Any]]:
    """One row: megabytes of float32 weights a second."""
    torch.set_num_threads(1)
    network, path = wide(side), folder / "speed.trim"
    megabytes = 4e-6 * side**2
    header, numbers = _numbers(network)
    coded, _ = payload.write(header, numbers, 0)
    ways: dict[str, Callable[[], object]] = {
        "coding, MB/s": lambda: payload.write(header, numbers, 0),
        "decoding, MB/s": lambda: payload.read(header, coded, 0),
        "pack, MB/s": lambda: tt.pack(network, path),
        "load, MB/s": lambda: tt.load(path),
    }
    found = {name: megabytes / _median_seconds(way, times) for name, way in ways.items()}
    return [{"speed of": f"{side} × {side}", "bytes": path.stat().st_size, **found}]


def run_memory(*, folder: Path, side: int = 4096) -> list[dict[str, Any]]:
    """One row: peaks of processes of their own."""
    path = (folder / "memory.trim").resolve()
    steps = {
        "pack": (f"network = wide({side})", f"tt.pack(network, {str(path)!r})"),
        "load": ("", f"tt.load({str(path)!r})"),
    }
    grown = {name: _grown(*lines) for name, lines in steps.items()}
    whole = 4 * side**2
    return [
        {
            "memory of": f"{side} × {side}",
            "packing, × the weights": grown["pack"] / whole,
            "loading, × the weights": grown["load"] / whole,
        }
    ]


def run_header(*, folder: Path) -> list[dict[str, Any]]:
    """One row: bytes of a LeNet's header."""
    packed = tt.pack(in_few_bits(LeNet5(), torch.randn(2, 1, 28, 28)), folder / "header.trim")
    return [{"header of": "LeNet-5", "bytes": packed.of("header")}]


def run_mutations(*, folder: Path, number: int = MUTATIONS) -> list[dict[str, Any]]:
    """One row: what became of spoilt files."""
    torch.manual_seed(SEED)
    path = tt.pack(in_few_bits(LeNet5(), torch.randn(2, 1, 28, 28)), folder / "whole.trim").path
    whole, spoilt, x = path.read_bytes(), folder / "spoilt.trim", torch.randn(4, 1, 28, 28)
    expected, drawn = tt.load(path)(x), random.Random(SEED)
    counts = {
        "refused": 0,
        "the identical network": 0,
        "another network, on purpose": 0,
        "another network, unnoticed": 0,
    }
    slowest = 0.0
    for turn in range(number):
        spoilt.write_bytes(_spoil(whole, drawn, fits=bool(turn % 2)))
        begin = time.process_time()
        try:
            same = torch.equal(tt.load(spoilt)(x), expected)
            other = f"another network, {'on purpose' if turn % 2 else 'unnoticed'}"
            counts["the identical network" if same else other] += 1
        except TrimtabError:
            counts["refused"] += 1
        slowest = max(slowest, time.process_time() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return [{"spoilt files": number, **counts, "slowest, s": slowest, "peak of the whole process, GiB": peak}]


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """Speed, memory, spoilt files."""
    found = []
    for row in rows:
        if "speed of" in row:
            found.append(Claim("coding float32 weights", ENCODE, row["coding, MB/s"], "MB/s", at_least=True))
            found.append(Claim("decoding float32 weights", DECODE, row["decoding, MB/s"], "MB/s", at_least=True))
        if "memory of" in row:
            found.append(Claim("memory of packing", MEMORY, row["packing, × the weights"], "× the weights"))
            found.append(Claim("memory of loading", MEMORY, row["loading, × the weights"], "× the weights"))
        if "header of" in row:
            found.append(Claim(f"header of a {row['header of']}", HEADER, row["bytes"], "bytes"))
        if "spoilt files" in row:
            found.append(
                Claim("spoilt files: another network, unnoticed", 0, row["another network, unnoticed"], "files")
            )
            found.append(Claim("spoilt files: slowest", SECONDS, row["slowest, s"], "s"))
            found.append(Claim("spoilt files: memory", GIGABYTES, row["peak of the whole process, GiB"], "GiB"))
    return found


def _numbers(network: tt.Network) -> tuple[Stored, dict[str, torch.Tensor]]:
    """What `pack` codes."""
    header, numbers = describe(tt.Network(fold(network.module), network.example))
    description, names = numbered(Description(header))
    return description.header, {new: numbers[old] for new, old in names.items() if old in numbers}


def _median_seconds(way: Callable[[], object], times: int) -> float:
    seconds = []
    for _ in range(times):
        begin = time.perf_counter()
        way()
        seconds.append(time.perf_counter() - begin)
    return median(seconds)


def _grown(before: str, step: str) -> int:
    """Bytes by which a process of its own grows at most in one line of Python, after another."""
    lines = f"""
import torch; import trimtab as tt; from storing.files import resident, wide; torch.set_num_threads(1)
{before}
begun = resident("VmRSS"); open("/proc/self/clear_refs", "w").write("5")
{step}
print(resident("VmHWM") - begun)
"""
    ran = subprocess.run(
        [sys.executable, "-c", lines], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
    )
    return int(ran.stdout)


def resident(which: str) -> int:
    """Bytes of this process in memory: now (`VmRSS`), or at most since the mark was reset (`VmHWM`)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith(which)).split()[1])


def _spoil(whole: bytes, drawn: random.Random, *, fits: bool) -> bytes:
    """Some bytes changed, cut off or put in; `fits`: behind a checksum that is right."""
    content = bytearray(whole)
    first = _HEADER_AT if fits else 0
    for _ in range(drawn.randint(1, 8)):
        match drawn.randrange(8):
            case 0:
                del content[drawn.randrange(first + 1, len(content)) :]
            case 1:
                content.insert(drawn.randrange(first, len(content)), drawn.randrange(256))
            case _:
                content[drawn.randrange(first, len(content))] = drawn.randrange(256)
    if fits:
        content[_CHECKSUM] = zlib.crc32(bytes(content[_HEADER_AT:])).to_bytes(4, "little")
    return bytes(content)
