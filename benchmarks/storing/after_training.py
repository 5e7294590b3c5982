"""The smallest file without training: codes by rate and distortion, beside NNCodec on the same float weights."""

import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import trimtab as tt
from harness import Claim
from jointly.trained_tasks import EXAMPLE
from pruning.lenets import trained
from trimtab.graph.analysis import attribute
from trimtab.measure import evaluate
from trimtab.plan import PER_CHANNEL, LayerDecision, Plan, Scheme
from trimtab.quant import fold
from trimtab.tasks import load_task

PROTOCOL = """\
After training: pretrained CIFAR-10 ResNets, and LeNets of five epochs (LeNet-300-100: 20; seed 0). Codes by rate and
distortion at eight prices, from 1024 unlabelled images of train (seed 0), packed with scales and biases of 6 bits of
mantissa; every byte of the file counts. NNCodec 2.1.3 (Fraunhofer HHI: DeepCABAC with trellis-coded quantization) at
qp -40 to -10 on the same weights, with and without batch norm folded, the better of the two; it sees no data, and its
file has no graph. Accuracy on all of test, of what is read back from each file. Compared are our files that lose at
most one point with the smallest that NNCodec needs for the same accuracy, between its points along a line.
"""
PRICES = (1e-8, 3e-8, 1e-7, 3e-7, 1e-6, 2e-6, 4e-6, 8e-6)
QPS = tuple(range(-40, -9, 2))
PRECISION, IMAGES, BATCH, LOSS = 6, 1024, 128, 1.0
GOAL = 20.0
NNCODEC = (Path(__file__).parents[2] / ".venv" / "nncodec" / "bin" / "python").absolute()


def _resnet(depth: str) -> tt.Task:
    return load_task(str(EXAMPLE), {"depth": depth, "batch": str(BATCH)})


NETWORKS: dict[str, Callable[[Path], tt.Task]] = {
    "ResNet-20": lambda _: _resnet("20"),
    "ResNet-56": lambda _: _resnet("56"),
    "LeNet-5": lambda folder: trained("LeNet-5", seed=0, folder=folder)[1],
    "LeNet-300-100": lambda folder: trained("LeNet-300-100", seed=0, folder=folder)[1],
}


def run(name: str, *, folder: Path, prices: Iterable[float] = PRICES, qps: Iterable[int] = QPS) -> list[dict[str, Any]]:
    """A row for each file of each coder."""
    given = NETWORKS[name](folder)
    network = tt.capture(given.model, next(iter(given.train))[0])
    original = 100 * evaluate(network, given.test, given.metric).value
    same = {"after training": name, "original, test %": original}
    torch.manual_seed(0)
    batches = [inputs for _, (inputs, _) in zip(range(IMAGES // BATCH), given.train, strict=False)]
    rows = []
    for price in prices:
        plan = _plan(network, price)
        solved = tt.repair(tt.apply(network, plan), network, plan, batches)
        packed = tt.pack(solved, folder / f"{name}-{price}.trim", precision=PRECISION)
        accuracy = 100 * evaluate(tt.load(packed.path), given.test, given.metric).value
        rows.append({**same, "coder": "trimtab", "setting": price, "bytes": packed.bytes, "accuracy, test %": accuracy})
    folded = tt.Network(fold(network.eval().module), network.example)
    for kind, subject in {"NNCodec": network, "NNCodec, batch norm folded": folded}.items():
        for qp, size in _nncodec(subject, folder / "weights.npz", qps):
            accuracy = 100 * evaluate(subject, given.test, given.metric).value
            rows.append({**same, "coder": kind, "setting": qp, "bytes": size, "accuracy, test %": accuracy})
    return rows


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """By how much our files are smaller than what NNCodec needs for their accuracy: the least of each network."""
    found = []
    for name in NETWORKS:
        of = [row for row in rows if row.get("after training") == name]
        own = [
            row for row in of if row["coder"] == "trimtab" and row["original, test %"] - row["accuracy, test %"] <= LOSS
        ]
        if own:
            others = [row for row in of if row["coder"] != "trimtab"]
            smaller = [100 * (1 - row["bytes"] / needed(others, row["accuracy, test %"])) for row in own]
            text = f"{name}: bytes below NNCodec's at equal accuracy, least of {len(own)}"
            found.append(Claim(text, GOAL, min(smaller), "%", at_least=True))
    return found


def needed(rows: list[dict[str, Any]], accuracy: float) -> float:
    """The least bytes with which a coder comes to this accuracy; infinite where it never does."""
    points = sorted((row["bytes"], row["accuracy, test %"]) for row in rows)
    best, reached = [], -np.inf
    for size, value in points:  # what is larger and no better is left out
        if value > reached:
            best.append((value, size))
            reached = value
    if accuracy > reached:
        return float("inf")
    return float(np.interp(accuracy, *zip(*best, strict=True)))


def _plan(network: tt.Network, price: float) -> Plan:
    scheme = Scheme(grid="symmetric", bits=8, granularity=PER_CHANNEL)
    decided: dict[str, Any] = {"weight": scheme, "solver": "rate_distortion", "price": price}
    layers = tuple(LayerDecision(layer=layer.name, **decided) for layer in network.layers)
    return Plan(fingerprint=network.fingerprint, target="onnxruntime", layers=layers)


def _nncodec(network: tt.Network, path: Path, qps: Iterable[int]) -> Iterable[tuple[int, int]]:
    """NNCodec in an environment of its own: each setting and its bytes, while the network has what comes back."""
    names = dict.fromkeys(str(node.target) for node in network.module.graph.nodes if node.op == "get_attr")
    tensors = {name: attribute(network.module, name).detach() for name in names}
    tensors = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    np.savez(path, **{name: tensor.numpy() for name, tensor in tensors.items()})
    for qp in qps:
        after = path.with_name("coded.npz")
        command = [str(NNCODEC), str(Path(__file__).with_name("with_nncodec.py")), path.name, after.name, str(qp)]
        ran = subprocess.run(  # it leaves files of its own where it runs
            command, stdout=subprocess.PIPE, stderr=sys.stderr, text=True, check=True, cwd=path.parent
        )
        with np.load(after) as arrays:
            for name, tensor in tensors.items():
                tensor.copy_(torch.from_numpy(arrays[name]))
        yield qp, int(ran.stdout.split()[-1])
