"""Residual branches, physically removed: layers and blocks, of which the shortcut is left."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch

from trimtab.graph import Network, remove
from trimtab.measure.cost import layer_macs
from trimtab.plan import BranchDecision, Plan
from trimtab.prune import BranchCriterion
from trimtab.search.pruning.granularity import Asked
from trimtab.search.pruning.scoring import scorer
from trimtab.search.pruning.subject import Subject
from trimtab.stats import Stats


class Branches:
    """A branch is one piece. One inside another counts for itself, and leaves with the other where that is removed."""

    pieces: ClassVar[str] = "branches"

    def __init__(self, asked: Asked, *, scored: bool) -> None:
        """`scored`: by the criterion; otherwise all alike, for an allocation that measures them."""
        self.asked, self.scored = asked, scored
        self.criterion = asked.criterion if scored else ""

    def subjects(self, keep: float | None = None) -> list[Subject]:
        """The branches, in graph order. Raises: ConfigError as `scorer`."""
        asked = self.asked
        asked.check_leave((branch.name for branch in asked.network.branches), "branch")
        branches = [branch for branch in asked.network.branches if branch.name not in asked.leave]
        values = torch.ones(len(branches), dtype=torch.float64)
        if self.scored:
            score: BranchCriterion = scorer(asked.criterion, asked.stats, BranchCriterion, of="branches")
            for i, branch in enumerate(branches):
                values[i] = score.branch(asked.network, branch, asked.stats or Stats())
        return [Subject(name=b.name, scores=value[None], least=0) for b, value in zip(branches, values, strict=True)]

    def plan(self, subjects: Sequence[Subject], removed: Mapping[str, int]) -> Plan:
        """Each branch is removed or not."""
        gone = [subject.name for subject in subjects if removed.get(subject.name)]
        return self.asked.plan(branches=tuple(BranchDecision(branch=name, removed=True) for name in gone))

    def layer_macs(self, removed: Mapping[str, int]) -> int:
        """Of the layers in no removed branch."""
        network = self.asked.network
        gone = {layer for name, pieces in removed.items() if pieces for layer in network.branch(name).layers}
        return sum(layer_macs(network, layer) for layer in network.layers if layer.name not in gone)

    def without(self, subjects: Sequence[Subject], removed: Mapping[str, int]) -> Network:
        """Only the skips of the branches are left."""
        return remove(self.asked.network, [s.name for s in subjects if removed.get(s.name)])
