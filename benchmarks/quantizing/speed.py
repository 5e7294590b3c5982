"""Speed of int8: trimtab against each runtime's own float32 and own quantizer, on ImageNet and CIFAR networks.

Random weights: only time is measured. Every layer is in int8 but those that `FLOAT` names.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import trimtab as tt
from harness import Claim
from int8_baseline import quantized_by_runtime
from quantizing.nncf_peer import quantized_by_nncf
from trimtab.lower import Artifact, load, lower_float
from trimtab.lower.targets import backend
from trimtab.measure.measurement import latencies
from trimtab.tasks import load_task

EXAMPLE = Path(__file__).parents[2] / "examples" / "cifar10_resnet.py"
PROTOCOL = """\
Random weights, batch norms with statistics of random inputs; 16 random inputs set the ranges. One thread, batch 1 and
32; the contestants of one runtime in turn in one run, medians of 8 runs or more. trimtab: `tt.quantize`, 8 bits.
quantize_static: QDQ, per channel, uint8 activations, int8 weights, min–max, after quant_pre_process. NNCF:
`nncf.quantize`, where it is installed. float32: torch's ONNX export; OpenVINO with inference precision f32.
"""
BATCHES = (1, 32)
SECONDS = {1: 10.0, 32: 30.0}
RUNS = 8  # at least, of each contestant
GOAL_PEER, GOAL_FLOAT, GOAL_SLOWEST = 1.0, 3.2, 1.0


def _torchvision(name: str) -> Callable[[], tuple[nn.Module, Tensor]]:
    def make() -> tuple[nn.Module, Tensor]:
        from zoo.vision import torchvision

        return torchvision.models.get_model(name, weights=None), torch.randn(4, 3, 224, 224)

    return make


def _cifar(depth: int) -> Callable[[], tuple[nn.Module, Tensor]]:
    def make() -> tuple[nn.Module, Tensor]:
        return load_task(str(EXAMPLE), {"depth": str(depth)}).model, torch.randn(4, 3, 32, 32)

    return make


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "ResNet-18": _torchvision("resnet18"),
    "MobileNetV2": _torchvision("mobilenet_v2"),
    "MobileNetV3": _torchvision("mobilenet_v3_large"),
    "ViT-B/16": _torchvision("vit_b_16"),
    "ResNet-20 (CIFAR)": _cifar(20),
    "ResNet-56 (CIFAR)": _cifar(56),
}
FLOAT: Mapping[str, tuple[str, ...]] = {}
"""Layers by network that are faster in float."""
PEERS: dict[str, dict[str, Any]] = {
    "onnxruntime": {"quantize_static": quantized_by_runtime},
    "openvino": {"NNCF": quantized_by_nncf},
}


def run(
    name: str,
    *,
    folder: Path,
    runtime: str = "onnxruntime",
    seconds: Mapping[int, float] = SECONDS,
    batches: tuple[int, ...] = BATCHES,
) -> list[dict[str, Any]]:
    """One network on one runtime: a row for every batch size."""
    folder = folder / f"{name.replace('/', '-')}-{runtime}"
    folder.mkdir(parents=True, exist_ok=True)
    contestants = _contestants(name, runtime, folder)
    rows = []
    for batch in batches:
        inputs = torch.randn(batch, *_shape(name))
        times = latencies(contestants, inputs, threads=1, seconds=seconds[batch], min_runs=RUNS)
        ms = {who: timing.median_ms for who, timing in times.items()}
        row: dict[str, Any] = {"network": name, "runtime": runtime, "batch": batch}
        row |= {f"ms, {who}": value for who, value in ms.items()}
        row |= {f"× {who}": value / ms["trimtab"] for who, value in ms.items() if who != "trimtab"}
        row |= {f"bytes, {who}": artifact.file_bytes for who, artifact in contestants.items()}
        row |= _kernels(contestants["trimtab"], runtime)
        rows.append(row)
    return rows


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """Geometric means over networks and batch sizes, for each runtime; and the slowest."""
    found = []
    for runtime, peers in PEERS.items():
        own = [row for row in rows if row.get("runtime") == runtime]
        for peer in peers:
            ratios = [row[f"× {peer}"] for row in own if f"× {peer}" in row]
            if ratios:
                found.append(Claim(f"{runtime}: speed against {peer}", GOAL_PEER, _mean(ratios), "×", at_least=True))
        ratios = [row["× float32"] for row in own]
        if ratios:
            found += [
                Claim(f"{runtime}: speed against float32", GOAL_FLOAT, _mean(ratios), "×", at_least=True),
                Claim(f"{runtime}: the slowest against float32", GOAL_SLOWEST, min(ratios), "×", at_least=True),
            ]
    return found


def _contestants(name: str, runtime: str, folder: Path) -> dict[str, Artifact]:
    torch.manual_seed(0)
    model, example = NETWORKS[name]()
    _with_statistics(model, example)
    network = tt.capture(model, example)
    target = tt.target(runtime)
    batches = [torch.randn_like(example) for _ in range(4)]
    plan = tt.quantize(network, keep=FLOAT.get(name, ()), target=runtime)
    ours = tt.settle(tt.apply(network, plan), batches)
    suffix = target.suffix
    floating = lower_float(network, target, folder / f"float{suffix}")
    found = {"float32": floating, "trimtab": tt.lower(ours, target, folder / f"trimtab{suffix}")}
    for peer, quantize in PEERS[runtime].items():
        made = quantize(floating.path, [row for batch in batches for row in batch.split(1)], folder)
        if made is not None:
            found[peer] = made if isinstance(made, Artifact) else load(runtime, made)
    return found


def _kernels(artifact: Artifact, runtime: str) -> dict[str, Any]:
    kernels = backend(runtime).kernels(artifact)
    return {"integer kernels": sum(kernels.integer.values()), "float kernels": sum(kernels.floating.values())}


def _with_statistics(model: nn.Module, example: Tensor) -> None:
    """Batch norms see random inputs once: with the statistics that they are born with, values fade or explode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    model.train()
    with torch.no_grad():
        model(example)
    model.eval()


def _shape(name: str) -> tuple[int, int, int]:
    side = 32 if "CIFAR" in name else 224
    return 3, side, side


def _mean(ratios: list[float]) -> float:
    return math.exp(sum(map(math.log, ratios)) / len(ratios))
