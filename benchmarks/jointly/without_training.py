"""Pruned and quantized without training: the joint solver, and the two orders one after the other."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import trimtab as tt
from harness import Claim
from trimtab.measure import evaluate, macs
from trimtab.plan import PER_CHANNEL, Fraction, GroupDecision, LayerDecision, NofM, Plan, Scheme, Sparsity, Weights
from trimtab.stats import collect
from trimtab.tasks import load_task

EXAMPLE = Path(__file__).parents[2] / "examples" / "cifar10_resnet.py"
PROTOCOL = """\
Networks without training or labels: pretrained CIFAR-10 ResNets, 1024 images of train (cropped, flipped), three
samples (seeds 0 to 2), the largest drop counts. WxAy: x bits for weights (a scale an output channel), y for what
convolutions read; the first and the last layer have 8 bits and lose no weight. Channels: of the first convolution of
each block, by optimal brain surgery of the second one, those first that lose least for the MACs they save. BatchNorm
is folded; simulated on all 10 000 test images; where ONNX Runtime has the kernels (8-bit activations) the artifact is
executed on all of them as well. Seconds: choosing channels, applying and solving a sample, without the test; those of
the CPU are what it takes at most on a machine that does nothing else, and parts ran beside others. The two
orders: SparseGPT (of channels: closed-form repair), then GPTQ on what is left; GPTQ first, then the smallest codes to
zero (channels: cut from the quantized network), biases corrected.
"""
IMAGES, BATCH, SAMPLES, SECONDS = 1024, 128, 3, 300


@dataclass(frozen=True)
class Case:
    """What is removed, in how many bits the rest is stored (None: float), and the largest drop in points."""

    depth: int
    goal: float
    sparsity: Sparsity | None = None
    macs: float | None = None
    bits: tuple[int, int] | None = None


CASES = {
    "ResNet-20 W4A8": Case(20, 0.2, bits=(4, 8)),
    "ResNet-20 W4A4": Case(20, 0.9, bits=(4, 4)),
    "ResNet-20 50 % W4A8": Case(20, 0.4, sparsity=Weights(fraction=0.5), bits=(4, 8)),
    "ResNet-20 60 % W4A8": Case(20, 0.5, sparsity=Weights(fraction=0.6), bits=(4, 8)),
    "ResNet-20 2:4 W4A8": Case(20, 0.6, sparsity=NofM(kept=2, of=4), bits=(4, 8)),
    "ResNet-56 W4A4": Case(56, 1.4, bits=(4, 4)),
    "ResNet-56 −30 % MACs": Case(56, 0.3, macs=0.3),
    "ResNet-56 −30 % MACs W4A8": Case(56, 0.5, macs=0.3, bits=(4, 8)),
    "ResNet-56 −50 % MACs": Case(56, 1.6, macs=0.5),
}


def run(name: str, *, folder: Path, rows: int | None = None, images: int = IMAGES) -> list[dict[str, Any]]:
    """A row for each sample and contestant. `rows` batches of test."""
    case = CASES[name]
    task = load_task(str(EXAMPLE), {"depth": str(case.depth), "batch": str(BATCH)})
    network = tt.capture(task.model, next(iter(task.train))[0])
    test = task.test if rows is None else [batch for _, batch in zip(range(rows), task.test, strict=False)]
    original = 100 * evaluate(network, test, task.metric).value
    found = []
    for seed in range(SAMPLES if rows is None else 1):
        torch.manual_seed(seed)
        batches = [inputs for _, (inputs, _) in zip(range(images // BATCH), task.train, strict=False)]
        for contestant, solve in _contestants(case).items():
            start, computed = time.perf_counter(), time.process_time()
            groups = _channels(network, batches, case.macs) if case.macs else ()
            solved = solve(network, _Decisions(network, case, groups, seed), batches)
            seconds, computed = time.perf_counter() - start, time.process_time() - computed
            accuracy = 100 * evaluate(solved, test, task.metric).value
            row = {
                "case": name,
                "contestant": contestant,
                "sample": seed,
                "original, test %": original,
                "accuracy, test %": accuracy,
                "drop, points": original - accuracy,
                "MACs removed, %": 100 * (1 - macs(solved) / macs(network)),
                "solving, s": seconds,
                "solving, CPU s": computed,
            }
            if contestant == JOINT and seed == 0 and case.bits and case.bits[1] == 8:
                row |= _proof(solved, test, folder / f"{name.replace(' ', '-').replace('%', '')}.onnx")
            found.append(row)
    return found


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """The largest drop and the longest time over the samples of each case; that artifacts are what was simulated."""
    found = []
    for name, case in CASES.items():
        of = [row for row in rows if row.get("case") == name]
        own = [row for row in of if row["contestant"] == JOINT]
        if not own:
            continue
        found.append(
            Claim(f"{name}: largest drop of {len(own)}", case.goal, max(r["drop, points"] for r in own), "points")
        )
        found.append(Claim(f"{name}: longest CPU time", SECONDS, max(r["solving, CPU s"] for r in own), "s"))
        if any("rows identical, %" in row for row in own):
            least = min(row["rows identical, %"] for row in own if "rows identical, %" in row)
            found.append(Claim(f"{name}: rows as simulated", 100, least, "%", at_least=True))
    return found


JOINT = "joint"
Batches = list[Tensor]


@dataclass(frozen=True)
class _Decisions:
    """Plans for one case, whole or in parts."""

    network: tt.Network
    case: Case
    groups: tuple[GroupDecision, ...]
    seed: int

    def plan(
        self, solver: str, *, prunes: bool = True, quantizes: bool = True, network: tt.Network | None = None
    ) -> Plan:
        """The case's plan, for `network` instead of the original if given, where nothing is cut any more."""
        of = network or self.network
        layers = tuple(self._layer(layer.name, solver, prunes, quantizes) for layer in of.layers)
        groups = self.groups if prunes and network is None else ()
        return Plan(fingerprint=of.fingerprint, target="onnxruntime", seed=self.seed, groups=groups, layers=layers)

    def _layer(self, name: str, solver: str, prunes: bool, quantizes: bool) -> LayerDecision:
        end = name in {self.network.layers[0].name, self.network.layers[-1].name}
        decision: dict[str, Any] = {"layer": name, "solver": solver}
        if prunes and not end:
            decision["sparsity"] = self.case.sparsity
        if quantizes and self.case.bits:
            weight, activation = (8, 8) if end else self.case.bits
            decision["weight"] = Scheme(grid="symmetric", bits=weight, granularity=PER_CHANNEL)
            decision["activation"] = Scheme(grid="affine", bits=activation)
            decision["ranges"] = "mse" if activation < 8 else "minmax"
        return LayerDecision(**decision)


def _jointly(network: tt.Network, decide: _Decisions, batches: Batches) -> tt.Network:
    plan = decide.plan("block")
    return tt.repair(tt.apply(network, plan), network, plan, batches)


def _prune_then_quantize(network: tt.Network, decide: _Decisions, batches: Batches) -> tt.Network:
    pruned = decide.plan("sparsegpt", quantizes=False)
    thin = tt.repair(tt.apply(network, pruned), network, pruned, batches)
    quantized = decide.plan("gptq", network=thin)
    return tt.repair(tt.apply(thin, quantized), thin, quantized, batches)


def _quantize_then_prune(network: tt.Network, decide: _Decisions, batches: Batches) -> tt.Network:
    quantized = decide.plan("gptq", prunes=False)
    coarse = tt.repair(tt.apply(network, quantized), network, quantized, batches).dequantize()
    both = decide.plan("nearest").model_copy(update={"fingerprint": coarse.fingerprint})
    return tt.settle(tt.apply(coarse, both), batches, structure_changed=bool(decide.groups))


def _quantize(network: tt.Network, decide: _Decisions, batches: Batches) -> tt.Network:
    plan = decide.plan("gptq")
    return tt.repair(tt.apply(network, plan), network, plan, batches)


def _contestants(case: Case) -> dict[str, Callable[[tt.Network, _Decisions, Batches], tt.Network]]:
    if case.sparsity is None and case.macs is None:
        return {JOINT: _jointly, "GPTQ": _quantize}
    if case.bits is None:
        return {JOINT: _jointly}
    return {JOINT: _jointly, "prune, quantize": _prune_then_quantize, "quantize, prune": _quantize_then_prune}


def _channels(network: tt.Network, batches: Batches, share: float) -> tuple[GroupDecision, ...]:
    """Channels inside blocks, those first that lose least for the MACs they save."""
    inside = {layer.name for layer in network.layers if layer.name.endswith("conv1") and "." in layer.name}
    plan = tt.prune(
        network,
        Fraction(removed=share, of="macs"),
        criterion="obs",
        allocation="global",
        stats=collect(network, [(batch, None) for batch in batches], None, {"gram"}),
        leave=[group.name for group in network.groups if group.name not in inside],
        target=tt.target("onnxruntime").model_copy(update={"channel_multiple": 1}),
    )
    return plan.groups


def _proof(network: tt.Network, test: Any, path: Path) -> dict[str, Any]:
    """The integer artifact, executed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    proof = tt.prove(tt.lower(network, tt.target("onnxruntime"), path), network, test)
    return {
        "rows identical, %": 100 * proof.identical_rows,
        "integer kernels": sum(proof.integer_ops.values()),
        "float kernels": sum(proof.float_ops.values()),
    }
