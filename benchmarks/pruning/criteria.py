"""Every criterion with every granularity that makes sense, on a CNN, an LSTM and a transformer, before training."""

from collections.abc import Collection, Iterable, Iterator
from statistics import mean
from typing import Any

import torch

import trimtab as tt
from harness import Claim
from pruning.digits import task
from pruning.small import Cnn, Lstm, Transformer
from trimtab.errors import ConfigError
from trimtab.measure import evaluate
from trimtab.plan import Fraction, Plan
from trimtab.prune import CRITERIA
from trimtab.prune.contract import BranchCriterion, EntryCriterion, UnitCriterion
from trimtab.prune.masks import masks_of
from trimtab.recover import Settings
from trimtab.stats import collect

PROTOCOL = """\
A CNN with batch norm, a two-layer LSTM and a five-layer transformer learn MNIST (20 000 images, 3 epochs, seed 0).
Of each 60 % is removed, over the whole network (N:M: 2 of 4 in every layer that it divides, 50 %), by every criterion,
with statistics of 1024 training images; batch norm is estimated again, nothing is trained. Accuracy on the 5000 images
of val. random: the mean of seeds 0 to 4.
"""
NETWORKS = {"CNN": Cnn, "LSTM": Lstm, "transformer": Transformer}
TRAINING = Settings(learning_rate=2e-3, weight_decay=0.1, distillation=0.0, precision="float32")
REMOVED = 0.6
HALF = "2:4"  # which removes a half, whatever is asked
GRANULARITIES = ("weights", "kernels", "4x4", HALF, "channels", "branches")
TARGET = tt.target("onnxruntime").model_copy(update={"channel_multiple": 1})
RANDOM_SEEDS = range(5)


def run(name: str, *, quick: bool = False, show: Any = None) -> Iterator[dict[str, Any]]:
    """A row for every criterion and granularity on one network."""
    torch.manual_seed(0)
    digits = task(NETWORKS[name](), rows=2_000 if quick else 20_000)
    untrained = tt.capture(digits.model, next(iter(digits.val))[0][:8])
    network = tt.recover(untrained, digits, epochs=3, settings=TRAINING, on_step=show).network
    batches = [batch for _, batch in zip(range(8), digits.train, strict=False)]
    needs = {need for criterion in CRITERIA for need in CRITERIA.load(criterion)().needs}
    stats = collect(network, batches, digits.loss, needs)
    whole = evaluate(network, digits.val, digits.metric).value
    for granularity in GRANULARITIES:
        chances: dict[frozenset[str], dict[str, float]] = {}
        for criterion in ("random", *(c for c in CRITERIA if c != "random")):
            left = _unscored(network, granularity, criterion, stats)
            if left is None:
                continue

            def reached(by: str, seeds: Iterable[int]) -> dict[str, float]:
                plans = [_plan(network, granularity, by, stats, left, seed) for seed in seeds]  # noqa: B023
                judged = [_judged(network, plan, stats, left, digits, batches) for plan in plans]  # noqa: B023
                return {name: mean(one[name] for one in judged) for name in judged[0]}

            if left not in chances:
                chances[left] = reached("random", RANDOM_SEEDS)
            chance = chances[left]
            found = chance if criterion == "random" else reached(criterion, (0,))
            yield {
                "network": name,
                "granularity": granularity,
                "criterion": criterion,
                "whole, %": 100 * whole,
                "accuracy, %": 100 * found["accuracy"],
                "random, %": 100 * chance["accuracy"],
                "loss": found["loss"],
                "random's loss": chance["loss"],
                "removed, %": 100 * found["removed"],
            }


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """How many do not beat random, and how far the share removed is from what was asked."""
    mine = [row for row in rows if "granularity" in row]
    if not mine:
        return []
    chosen = [row for row in mine if row["criterion"] != "random"]
    worse = sum(row["accuracy, %"] <= row["random, %"] for row in chosen)
    off = max(abs(row["removed, %"] - (50 if row["granularity"] == HALF else 100 * REMOVED)) for row in mine)
    return [
        Claim(f"of {len(chosen)} (criterion, granularity, network), not better than random", 0, worse, ""),
        Claim("share removed, off the asked one by at most", 1, off, "points"),
    ]


def _unscored(network: tt.Network, granularity: str, criterion: str, stats: Any) -> frozenset[str] | None:
    """The groups that the criterion has no score for (no norm over them); None where it makes no sense at all."""
    rule = CRITERIA.load(criterion)()
    if granularity == "branches":
        return frozenset() if isinstance(rule, BranchCriterion) and network.branches else None
    if granularity != "channels":
        has_kernels = granularity != "kernels" or any(layer.operator == "convolution" for layer in network.layers)
        return frozenset() if isinstance(rule, EntryCriterion) and has_kernels else None
    if not isinstance(rule, UnitCriterion):
        return None
    unscored = set()
    for group in network.groups:
        try:
            rule(network, group, stats)
        except ConfigError:
            unscored.add(group.name)
    return None if len(unscored) == len(network.groups) else frozenset(unscored)


def _plan(network: tt.Network, granularity: str, criterion: str, stats: Any, left: Collection[str], seed: int) -> Plan:
    amount = None if granularity == HALF else Fraction(removed=REMOVED)
    return tt.prune(
        network, amount, granularity=granularity, criterion=criterion, stats=stats, leave=left, seed=seed, target=TARGET
    )


def _judged(
    network: tt.Network, plan: Plan, stats: Any, left: Collection[str], digits: tt.Task, batches: list[Any]
) -> dict[str, float]:
    """Accuracy and loss on val, and the share of pieces that are gone."""
    small = tt.settle(tt.apply(network, plan, stats=stats), [inputs for inputs, _ in batches], structure_changed=True)
    return {
        "accuracy": evaluate(small, digits.val, digits.metric).value,
        "loss": evaluate(small, digits.val, lambda outputs, labels: digits.loss(outputs, labels).item()).value,
        "removed": _share_removed(network, small, plan, left),
    }


def _share_removed(network: tt.Network, small: tt.Network, plan: Plan, left: Collection[str]) -> float:
    if plan.branches:
        return len(plan.branches) / len(network.branches)
    if plan.groups:
        widths = {group.name: group.width for group in network.groups if group.name not in left}
        return sum(widths[d.group] - len(d.kept) for d in plan.groups) / sum(widths.values())
    masks = masks_of(small, plan).values()
    return 1 - sum(int(keep.sum()) for keep in masks) / sum(keep.numel() for keep in masks)
