"""Mask and codes of single layers: the joint solver against sequences and single sweeps, on a real network's layers."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import trimtab as tt
from harness import Claim
from trimtab.plan import PER_CHANNEL, NofM, Scheme, Sparsity, Weights
from trimtab.prune.granularity import keep
from trimtab.quant import WeightFakeQuantize
from trimtab.quant.grids.kernels import grid_of
from trimtab.recover.layerwise import Problem, damping_for, solve_weight
from trimtab.recover.reconstruct import trials
from trimtab.solve import pieces_of
from trimtab.tasks import load_task

EXAMPLE = Path(__file__).parents[2] / "examples" / "cifar10_resnet.py"
PROTOCOL = """\
Weights of single layers: every layer of the pretrained ResNet-20, alone, on what the float network gives it to read
(1024 images of train, seed 0). Codes have 4 bits, symmetric, a scale an output channel. The error is the variance of
what the weights' change does behind batch norm, as a share of the variance there, summed over layers; of 2:4 without
the first layer, which reads three channels. Sequences: SparseGPT, then GPTQ on what is left; both in one sweep; GPTQ,
then the smallest codes to zero.
"""
IMAGES, BATCH = 1024, 128
CODES = Scheme(grid="symmetric", bits=4, granularity=PER_CHANNEL)
SPARSITIES: dict[str, Sparsity] = {"50 %": Weights(fraction=0.5), "2:4": NofM(kept=2, of=4)}
GOALS = {"50 %": 30.0, "2:4": 20.0}
JOINT, QUANTIZED_FIRST = "joint", "GPTQ, then prune"


def run(name: str, images: int = IMAGES) -> list[dict[str, Any]]:
    """A row for every layer and contestant."""
    task = load_task(str(EXAMPLE), {"depth": "20", "batch": str(BATCH)})
    network = tt.capture(task.model, next(iter(task.train))[0])
    torch.manual_seed(0)
    batches = [inputs for _, (inputs, _) in zip(range(images // BATCH), task.train, strict=False)]
    sparsity = SPARSITIES[name]
    rows = []
    for problem in (trial.problem for trial in trials(network, batches)):
        if isinstance(sparsity, NofM) and problem.shape[1] % sparsity.of:
            continue
        thinned = replace(
            problem,
            pieces=pieces_of(problem.name, problem.shape, len(problem.weight), sparsity),
            kept=keep(problem.weight.reshape(problem.shape).abs(), sparsity).reshape(problem.weight.shape),
            rounding=_rounding(problem),
        )
        for contestant, solve in CONTESTANTS.items():
            start = time.perf_counter()
            weight = solve(thinned, sparsity)
            rows.append(
                {
                    "layer": problem.name,
                    "sparsity": name,
                    "contestant": contestant,
                    "error": _error(problem, weight),
                    "zeros": float((weight == 0).double().mean()),
                    "seconds": time.perf_counter() - start,
                }
            )
    return rows


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """How far the joint solver's error is below each sequence's; and everywhere below that of quantizing first."""
    found = []
    for name, goal in GOALS.items():
        of = [row for row in rows if row.get("sparsity") == name and "contestant" in row and "layer" in row]
        if not of:
            continue
        errors = {who: {row["layer"]: row["error"] for row in of if row["contestant"] == who} for who in CONTESTANTS}
        joint = sum(errors[JOINT].values())
        for who in ("SparseGPT, then GPTQ", "one sweep"):
            below = 100 * (1 - joint / sum(errors[who].values()))
            found.append(Claim(f"{name} + 4 bits: error below {who}", goal, below, "%", at_least=True))
        worse = sum(errors[JOINT][layer] >= error for layer, error in errors[QUANTIZED_FIRST].items())
        found.append(Claim(f"{name} + 4 bits: layers not below {QUANTIZED_FIRST}", 0, worse, ""))
    return found


def _rounding(problem: Problem) -> WeightFakeQuantize:
    return WeightFakeQuantize(grid_of(CODES), problem.weight.reshape(problem.shape).float(), PER_CHANNEL)


def _error(problem: Problem, weight: Tensor) -> float:
    def variance(values: Tensor) -> float:
        of_rows = ((values @ problem.moments.gram) * values).sum(-1)
        return float((of_rows * problem.gain.square()).sum())

    return variance(weight - problem.weight) / variance(problem.weight)


def _jointly(problem: Problem, sparsity: Sparsity) -> Tensor:
    return solve_weight(problem, "joint", damping_for(problem)).used


def _sparsegpt_then_gptq(problem: Problem, sparsity: Sparsity) -> Tensor:
    return solve_weight(problem, "sparsegpt", None).used


def _one_sweep(problem: Problem, sparsity: Sparsity) -> Tensor:
    return solve_weight(problem, "sweep", None).used


def _gptq_then_prune(problem: Problem, sparsity: Sparsity) -> Tensor:
    dense = replace(problem, pieces=None, kept=None)
    codes = solve_weight(dense, "gptq", damping_for(dense)).used
    return codes * keep(codes.reshape(problem.shape).abs(), sparsity).reshape(codes.shape)


CONTESTANTS: dict[str, Callable[[Problem, Sparsity], Tensor]] = {
    JOINT: _jointly,
    "SparseGPT, then GPTQ": _sparsegpt_then_gptq,
    "one sweep": _one_sweep,
    QUANTIZED_FIRST: _gptq_then_prune,
}
