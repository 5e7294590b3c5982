"""Every criterion with every granularity that makes sense, on a CNN, an LSTM and a transformer, before training."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import torch

import trimtab as tt
from harness import Claim
from pruning.digits import task
from pruning.small import Cnn, Lstm, Transformer
from trimtab.errors import ConfigError
from trimtab.measure import evaluate
from trimtab.plan import Fraction, Kernels, Plan
from trimtab.prune import CRITERIA
from trimtab.prune.contract import BranchCriterion, EntryCriterion, UnitCriterion
from trimtab.prune.masks import prunable
from trimtab.recover import Settings
from trimtab.stats import Stats, collect

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
        trial = _Trial(network, digits, stats, batches, granularity)
        chances: dict[frozenset[str], tuple[dict[str, float], set[str]]] = {}
        for criterion in ("random", *(c for c in CRITERIA if c != "random")):
            left = _unscored(network, granularity, criterion, stats)
            if left is None:
                continue
            if left not in chances:
                plans = [trial.plan("random", left, seed) for seed in RANDOM_SEEDS]
                counted = {name for plan in plans for name in _decided(plan)}
                chances[left] = trial.reached(plans, counted), counted
            chance, counted = chances[left]
            found = chance if criterion == "random" else trial.reached([trial.plan(criterion, left)], counted)
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


def _decided(plan: Plan) -> set[str]:
    """The groups, layers or branches that lose something."""
    return {d.group for d in plan.groups} | {d.layer for d in plan.layers} | {d.branch for d in plan.branches}


@dataclass(frozen=True)
class _Trial:
    """One network, to lose pieces of one granularity."""

    network: tt.Network
    digits: tt.Task
    stats: Stats
    batches: list[Any]
    granularity: str

    def plan(self, criterion: str, left: frozenset[str], seed: int = 0) -> Plan:
        """What the criterion removes over the network, but for the groups in `left`."""
        return tt.prune(
            self.network,
            None if self.granularity == HALF else Fraction(removed=REMOVED),
            granularity=self.granularity,
            criterion=criterion,
            stats=self.stats,
            leave=left,
            seed=seed,
            target=TARGET,
        )

    def reached(self, plans: Sequence[Plan], counted: set[str]) -> dict[str, float]:
        """Accuracy and loss on val, and the share of pieces that are gone; means over the plans."""
        inputs = [batch for batch, _ in self.batches]
        judged = []
        for plan in plans:
            small = tt.settle(tt.apply(self.network, plan, stats=self.stats), inputs, structure_changed=True)
            judged.append(
                {
                    "accuracy": evaluate(small, self.digits.val, self.digits.metric).value,
                    "loss": evaluate(small, self.digits.val, lambda out, y: self.digits.loss(out, y).item()).value,
                    "removed": _share_removed(self.network, small, plan, counted | _decided(plan)),
                }
            )
        return {name: mean(one[name] for one in judged) for name in judged[0]}


def _share_removed(network: tt.Network, small: tt.Network, plan: Plan, counted: set[str]) -> float:
    """Of the pieces of what can lose some: what a random plan or this one takes from."""
    if plan.branches:
        return len(plan.branches) / len(network.branches)
    if plan.groups:
        widths = {group.name: group.width for group in network.groups if group.name in counted}
        return sum(widths[d.group] - len(d.kept) for d in plan.groups) / sum(widths.values())
    weights = [small.module.get_parameter(name) for layer, name in prunable(small).items() if layer in counted]
    if any(isinstance(decision.sparsity, Kernels) for decision in plan.layers):
        weights = [weight.reshape(*weight.shape[:2], -1).abs().sum(2) for weight in weights]
    return 1 - sum(int(weight.count_nonzero()) for weight in weights) / sum(weight.numel() for weight in weights)
