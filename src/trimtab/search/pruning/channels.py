"""Channels, heads and neurons: units of channel groups, physically removed."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from trimtab.graph import ChannelGroup, Network, cut
from trimtab.plan import GroupDecision, Plan, Target
from trimtab.plan.plan import left_whole
from trimtab.prune import Scores, UnitCriterion, rank
from trimtab.search.pruning.granularity import Asked
from trimtab.search.pruning.scoring import scorer
from trimtab.search.pruning.subject import Subject
from trimtab.search.space import LayerShape, evaluate_terms, shape_of, step_of, unique_layers
from trimtab.stats import Stats


class Channels:
    """Of a dimension that is a product (heads × what a head holds) one factor is cut: shares do not compound."""

    pieces: ClassVar[str] = "channels"

    def __init__(self, asked: Asked) -> None:
        self.asked, self.criterion = asked, asked.criterion

    def subjects(self, keep: float | None = None) -> list[Subject]:
        """The groups that may be cut, in graph order. Raises: ConfigError as `scorer`."""
        asked, network = self.asked, self.asked.network
        score: UnitCriterion = scorer(asked.criterion, asked.stats, UnitCriterion, of="channels")
        asked.check_leave((group.name for group in network.groups), "group")
        groups = {group.name: group for group in network.groups if group.name not in asked.leave}
        whole = set() if keep is None else _whole(asked, groups, keep)
        found = []
        for name, group in groups.items():
            if name not in whole:
                scores = score(network, group, asked.stats or Stats())
                found.append(_subject(group, asked.target, scores.values))
        return found

    def plan(self, subjects: Sequence[Subject], removed: Mapping[str, int]) -> Plan:
        """The units of the lowest scores leave; of equal ones the later."""
        decisions = []
        for subject in subjects:
            if removed.get(subject.name):
                order = rank(Scores(group=subject.name, values=subject.scores))
                kept = tuple(sorted(order[: subject.pieces - removed[subject.name]]))
                decisions.append(GroupDecision(group=subject.name, kept=kept))
        return self.asked.plan(groups=tuple(decisions))

    def layer_macs(self, removed: Mapping[str, int]) -> int:
        """From the layers' sizes as polynomials in the widths."""
        widths = {group.name: group.width - removed.get(group.name, 0) for group in self.asked.network.groups}
        return sum(layer.positions * evaluate_terms(layer.weights, widths) for layer in self._layers)

    @cached_property
    def _layers(self) -> list[LayerShape]:
        network = self.asked.network
        return [shape_of(network, layer) for layer in unique_layers(network)]

    def without(self, subjects: Sequence[Subject], removed: Mapping[str, int]) -> Network:
        """Cut."""
        decided = self.plan(subjects, removed).groups
        return cut(self.asked.network, {decision.group: decision.kept for decision in decided})


def _subject(group: ChannelGroup, target: Target, scores: Tensor) -> Subject:
    return Subject(name=group.name, scores=scores, step=step_of(group, target), least=group.at_least)


def _whole(asked: Asked, groups: Mapping[str, ChannelGroup], keep: float) -> set[str]:
    """The factors of products that stay whole."""

    def share(name: str) -> float:
        """What can be left of a group that comes nearest to `keep`."""
        group = groups[name]
        removals = _subject(group, asked.target, torch.zeros(group.width)).removals.tolist()
        return min(((group.width - gone) / group.width for gone in [0, *removals]), key=lambda s: abs(s - keep))

    products = [
        tuple(tuple(name for name in factor if name in groups) for factor in product)
        for product in asked.network.products
    ]
    return left_whole([tuple(factor for factor in product if factor) for product in products], share, keep)
