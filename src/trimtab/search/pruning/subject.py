"""A subject: what loses pieces by itself, a channel group, a layer's weight or a residual branch."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil

import torch
from torch import Tensor

Points = tuple[tuple[int, float], ...]
"""A measured curve: so many pieces removed, and the divergence of the outputs; rising, from (0, 0) on."""


_NONE = torch.zeros(0, dtype=torch.long)


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """Pieces that leave in rising order of their scores, in steps.

    `scores`: [pieces] float64, higher means keep. The number that is left is a multiple of `step`, or all, and not
    below `least`. `shape` is that of a layer's weight. `curve` and `cost` (of one piece, in what the amount counts) are
    what allocations go by that measure, or count costs.
    """

    name: str
    scores: Tensor
    step: int = 1
    least: int = 1
    shape: tuple[int, ...] = ()
    curve: Points = ((0, 0.0),)
    cost: float = 1.0

    @property
    def pieces(self) -> int:
        """How many there are."""
        return len(self.scores)

    @cached_property
    def removals(self) -> Tensor:
        """How many pieces are gone after each step. [steps] long, strictly rising"""
        highest = (self.pieces - 1) // self.step * self.step
        lowest = ceil(self.least / self.step) * self.step
        return self.pieces - torch.arange(lowest, highest + 1, self.step).flip(0) if lowest <= highest else _NONE

    @cached_property
    def step_scores(self) -> Tensor:
        """The mean score of the pieces that each step removes. [steps] float64, not falling"""
        ranked = self.scores.sort().values
        if self.step == 1:
            return ranked[: len(self.removals)]
        sums = torch.cat([ranked.new_zeros(1), ranked.cumsum(0)[self.removals - 1]])
        return (sums.diff() / self.sizes).cummax(0).values if len(self.removals) else sums[:0]

    @property
    def sizes(self) -> Tensor:
        """How many pieces each step removes. [steps] long"""
        return self.removals.diff(prepend=torch.zeros(1, dtype=torch.long))

    def before(self, gone: int) -> int:
        """How many pieces were gone before the step after which `gone` are."""
        fewer = self.removals[self.removals < gone]
        return int(fewer[-1]) if len(fewer) else 0

    def below(self, score: float) -> int:
        """How many pieces leave when all below a score do, as far as steps and `least` allow."""
        low = int((self.scores < score).sum())
        return self.before(low + 1)


class Queue:
    """The steps of all subjects in the order in which they leave."""

    def __init__(self, subjects: Sequence[Subject], priorities: Sequence[Tensor]) -> None:
        """`priorities`: for every subject one number a step, not falling; the lowest leave first."""
        order = torch.cat(list(priorities)).argsort(stable=True)
        owners = torch.cat([torch.full((len(s.removals),), i) for i, s in enumerate(subjects)])
        self._subjects = subjects
        self._owners = owners[order]
        self._gone = torch.cat([s.sizes for s in subjects])[order].cumsum(0)

    def __len__(self) -> int:
        """Steps in all."""
        return len(self._owners)

    @property
    def most(self) -> int:
        """Pieces that may leave."""
        return int(self._gone[-1]) if len(self) else 0

    def steps_for(self, pieces: int) -> int:
        """The fewest steps that remove at least so many pieces."""
        return int(torch.searchsorted(self._gone, pieces)) + 1

    def removed(self, steps: int) -> dict[str, int]:
        """How many pieces of each subject are gone after so many steps."""
        taken = torch.bincount(self._owners[:steps], minlength=len(self._subjects)).tolist()
        return {s.name: int(s.removals[n - 1]) if n else 0 for s, n in zip(self._subjects, taken, strict=True)}

    def latest(self, steps: int) -> list[Subject]:
        """The subjects that lost one of so many steps; the one that lost the last comes first."""
        return [self._subjects[owner] for owner in dict.fromkeys(self._owners[:steps].flip(0).tolist())]
