"""RigL: as sparse as it will be from the first step, while the places of the weights move."""

import math

import torch
from torch import Tensor

from trimtab.plan import NofM, RigL, Weights
from trimtab.prune.granularity import keep, piece_count
from trimtab.prune.schedules.goals import Entries
from trimtab.prune.schedules.importance import gradient_of
from trimtab.prune.schedules.pruner import Aim, Pruner
from trimtab.prune.schedules.timeline import step_at


class Rigging(Pruner):
    """The weights that score lowest give up their places; the removed ones of the largest gradients get them, at zero.

    At step t of T (the step of `stop`) the share swapped/2 · (1 + cos(πt/T)) of a layer's pieces moves. A piece that
    just gave up may get its place back, with its value. The gradient is that of the optimizer step just made.
    Source: Evci et al. 2020, "Rigging the Lottery: Making All Tickets Winners", algorithm 1 and eq. 1.
    """

    def __init__(self, aim: Aim, schedule: RigL, steps: int) -> None:
        super().__init__(aim)
        self._swapped, self._last = schedule.swapped, max(step_at(schedule.stop, steps), 1)

    def _choose(self, entries: Entries, scores: Tensor) -> Tensor:
        assert self._step is not None
        if self._step == 0:
            return entries.choose(scores, self.level)
        share = self._swapped / 2 * (1 + math.cos(math.pi * self._step / self._last))
        gradient = gradient_of(entries.parameter, entries.weight, "schedule 'rigl'")
        survives = survivors(entries, scores, share)
        grown = entries.inside(gradient.double().square()).masked_fill(survives, torch.inf)
        return entries.spread(keep(grown, entries.sparsity))


def survivors(entries: Entries, scores: Tensor, share: float) -> Tensor:
    """Of what is left after the cut: the kept entries less the share of the pieces that gives up its places.

    Of N:M single weights give up, wherever in the layer they are.
    """
    kept = entries.inside(entries.kept)
    sparsity = Weights(fraction=0.5) if isinstance(entries.sparsity, NofM) else entries.sparsity
    size = kept.numel() // piece_count(kept.shape, sparsity)  # entries of a piece
    number, held = piece_count(kept.shape, sparsity), int(kept.sum()) // size
    left = max(held - round(share * held), 1)
    ranked = entries.inside(scores).masked_fill(~kept, -torch.inf)
    return keep(ranked, sparsity.model_copy(update={"fraction": (number - left) / number}))
