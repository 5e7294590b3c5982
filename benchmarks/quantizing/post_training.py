"""Quantization without training: the pretrained CIFAR-10 ResNets in 8 and 4 bits, from 1024 unlabelled images."""

import time
from pathlib import Path
from typing import Any

import torch

import trimtab as tt
from harness import Claim
from trimtab.measure import evaluate
from trimtab.plan import PER_CHANNEL
from trimtab.tasks import load_task

EXAMPLE = Path(__file__).parents[2] / "examples" / "cifar10_resnet.py"
PROTOCOL = """\
CIFAR-10, pretrained ResNets, no training and no labels: 1024 images of train (cropped, flipped) a sample, three samples
(seeds 0 to 2), the largest drop counts. Weights per output channel, activations per tensor; WxAy: x bits for weights,
y for what convolutions read; the first and the last layer have 8, and so have shortcuts (their sums are joins, which
cost nothing more in 8 bits). BatchNorm is folded. Simulated on all 10 000 test images. Seconds are those of applying
and solving one sample, without the test: the clock's, which the claim is on, and those of CPU time of all threads.
Solvers were chosen on the 5000 images of val, plain and turned, zoomed and changed in contrast, with one sample, by
squared error and KL divergence from the float network's outputs: accuracies on val do not tell them apart, since the
pretrained networks saw it in training. W4A4 was looked at on ResNet-20 alone; in W8A8 the solvers are alike.
"""
IMAGES, BATCH, SAMPLES, SECONDS = 1024, 128, 3, 180
GOALS = {
    # (depth, bits of weights, bits of activations): largest drop in points
    (20, 8, 8): 0.1,
    (56, 8, 8): 0.1,
    (20, 4, 8): 0.2,
    (56, 4, 8): 0.2,
    (20, 4, 4): 0.9,
    (56, 4, 4): 1.4,
}
SOLVERS = {(8, 8): "gptq", (4, 8): "block", (4, 4): "block"}


def run(
    depth: int, *, bits: tuple[int, int], seed: int, images: int = IMAGES, rows: int | None = None
) -> dict[str, Any]:
    """One network, one pair of widths, one sample of calibration images."""
    task = load_task(str(EXAMPLE), {"depth": str(depth), "batch": str(BATCH)})
    network = tt.capture(task.model, next(iter(task.train))[0])
    torch.manual_seed(seed)
    batches = [inputs for _, (inputs, _) in zip(range(images // BATCH), task.train, strict=False)]
    start, computed = time.perf_counter(), time.process_time()
    plan = plan_for(network, *bits, seed=seed)
    fake = tt.repair(tt.apply(network, plan), network, plan, batches)
    seconds, computed = time.perf_counter() - start, time.process_time() - computed
    test = [batch for _, batch in zip(range(rows), task.test, strict=False)] if rows is not None else task.test
    before, after = (100 * evaluate(it, test, task.metric).value for it in (network, fake))
    return {
        "network": f"ResNet-{depth}",
        "weights, bits": bits[0],
        "activations, bits": bits[1],
        "solver": SOLVERS[bits],
        "sample": seed,
        "images": sum(len(batch) for batch in batches),
        "original, test %": before,
        "accuracy, test %": after,
        "drop, points": before - after,
        "solving, s": seconds,
        "solving, CPU s": computed,
    }


def plan_for(network: tt.Network, weights: int, activations: int, *, seed: int = 0) -> tt.Plan:
    """Every layer in these widths, the first and the last in 8 bits."""
    ends = {network.layers[0].name, network.layers[-1].name}

    def decision(name: str) -> tt.LayerDecision:
        of_weight, of_activation = (8, 8) if name in ends else (weights, activations)
        return tt.LayerDecision(
            layer=name,
            weight=tt.Scheme(grid="symmetric", bits=of_weight, granularity=PER_CHANNEL),
            activation=tt.Scheme(grid="affine", bits=of_activation),
            ranges="mse" if of_activation < 8 else "minmax",
            solver=SOLVERS[weights, activations],
        )

    decisions = tuple(decision(layer.name) for layer in network.layers)
    return tt.Plan(fingerprint=network.fingerprint, target="onnxruntime", seed=seed, layers=decisions)


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """The largest drop and the longest time over the samples of each network and pair of widths."""
    found = []
    for (depth, weights, activations), goal in GOALS.items():
        of = [
            row
            for row in rows
            if row.get("network") == f"ResNet-{depth}"
            and (row.get("weights, bits"), row.get("activations, bits")) == (weights, activations)
            and "solver" in row
        ]
        if not of:
            continue
        where = f"ResNet-{depth}, W{weights}A{activations}, without training"
        found.append(
            Claim(f"{where}: largest drop of {len(of)} samples", goal, max(r["drop, points"] for r in of), "points")
        )
        found.append(Claim(f"{where}: longest time", SECONDS, max(r["solving, s"] for r in of), "s"))
    return found
