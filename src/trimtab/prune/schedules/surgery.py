"""Dynamic network surgery: what was removed keeps learning, and comes back when it has grown."""

from collections.abc import Mapping

import torch
from torch import Tensor

from trimtab.plan import Dynamic
from trimtab.prune.schedules.goals import Entries
from trimtab.prune.schedules.pruner import Aim, Pruner


class Surgery(Pruner):
    """Every weight has a latent value; the network computes with it where the mask is set, else with zero.

    The optimizer moves the weights in use; the step that it makes from a zero is added to the latent value. At an
    update there is one threshold τ on the latent weights' magnitude that gives the level's sparsity exactly, when
    weights in use leave below τ·(1−slack) and others come back above τ·(1+slack).
    Units of channel groups do not come back. After the last update the masks stay.
    Source: Guo, Yao & Chen 2016, "Dynamic Network Surgery for Efficient DNNs", eq. 3 and 4.
    """

    def __init__(self, aim: Aim, schedule: Dynamic) -> None:
        super().__init__(aim)
        self._slack = schedule.slack
        self._latent = {e.parameter: torch.zeros_like(e.weight, requires_grad=False) for e in aim.entries}
        self._gone = {name: torch.zeros_like(latent) for name, latent in self._latent.items()}
        self._sparse: list[Tensor] = [e.weight for e in aim.entries]

    def _moved(self) -> None:
        if self.finished:
            return
        latent = list(self._latent.values())
        torch._foreach_add_(latent, self._sparse)
        torch._foreach_mul_(latent, list(self._gone.values()))

    def _weights(self) -> Mapping[str, Tensor]:
        whole = torch._foreach_add(list(self._latent.values()), self._sparse)
        return dict(zip(self._latent, whole, strict=True))

    def _choose(self, entries: Entries, scores: Tensor) -> Tensor:
        power = 2 if self._aim.importance.criterion == "magnitude" else 1  # magnitude scores squares
        bound = torch.where(entries.kept, 1 - self._slack, 1 + self._slack).to(scores.dtype) ** power
        return entries.choose(torch.where(scores >= 0, scores / bound, scores * bound), self.level)

    def _changed(self, weights: Mapping[str, Tensor]) -> None:
        self._mark_gone()
        for name, latent in self._latent.items():
            self._parameters[name].copy_(weights[name])
            torch.mul(weights[name], self._gone[name], out=latent)

    def _mark_gone(self) -> None:
        """1 where an entry was removed and its units are still there, so that it may come back."""
        units = [group.masks() for group in self._aim.units]
        for entries in self._aim.entries:
            gone = ~entries.kept
            for masks in units:
                if entries.parameter in masks:
                    gone = gone & masks[entries.parameter]
            self._gone[entries.parameter].copy_(gone)

    def state(self) -> dict[str, Tensor]:
        return super().state() | {f"latent/{name}": latent.clone() for name, latent in self._latent.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        super().restore(tensors)
        self._mark_gone()
        for name, latent in self._latent.items():
            latent.copy_(tensors[f"latent/{name}"])
