"""Rewinding: cut, return what is left to its values early in training, train again."""

from collections.abc import Mapping

import torch
from torch import Tensor

from trimtab.plan import Rewind
from trimtab.prune.schedules.cuts import removed_further
from trimtab.prune.schedules.goals import Entries
from trimtab.prune.schedules.pruner import Aim, Pruner
from trimtab.prune.schedules.timeline import step_at


class Rewinding(Pruner):
    """After every cut all parameters and buffers return to what they were at the step of `to`.

    The optimizer's state and the learning rate go on.
    Source: Frankle et al. 2020, "Linear Mode Connectivity and the Lottery Ticket Hypothesis", algorithm 2.
    """

    def __init__(self, aim: Aim, schedule: Rewind, steps: int) -> None:
        super().__init__(aim)
        self._to = step_at(schedule.to, steps)
        self._early = {name: torch.zeros_like(tensor) for name, tensor in aim.network.state_dict().items()}

    def _moved(self) -> None:
        if self._step == self._to:
            for name, tensor in self._aim.network.state_dict().items():
                self._early[name].copy_(tensor)

    def _choose(self, entries: Entries, scores: Tensor) -> Tensor:
        return removed_further(entries, scores, self.level)

    def _changed(self, weights: Mapping[str, Tensor]) -> None:
        for name, tensor in self._aim.network.state_dict().items():
            tensor.copy_(self._early[name])

    def state(self) -> dict[str, Tensor]:
        return super().state() | {f"early/{name}": tensor.clone() for name, tensor in self._early.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        super().restore(tensors)
        for name, early in self._early.items():
            early.copy_(tensors[f"early/{name}"])
