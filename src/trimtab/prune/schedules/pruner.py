"""The Pruner: what all schedules share. It counts steps, changes masks when they are due, and holds zeros at zero."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trimtab.errors import ConfigError
from trimtab.graph import Network
from trimtab.prune.masks import hold
from trimtab.prune.schedules.goals import Entries, Units
from trimtab.prune.schedules.importance import Importance


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What a pruner is to reach, and when: `timeline` maps steps to levels."""

    network: Network
    entries: list[Entries]
    units: list[Units]
    timeline: Mapping[int, float]
    importance: Importance


class Pruner(ABC):
    """Makes a network sparse while it trains, in any loop and with any optimizer.

    `masks` holds by parameter where it stays (bool, the parameter's shape). `level` is the share of the final sparsity
    that is in force, `finished` whether it is all of it: from then on the network may be delivered.

    Removed weights are set to zero after every optimizer step; momentum and weight decay act on what is then there.
    Parameters must stay on the device on which the pruner was made.
    """

    def __init__(self, aim: Aim) -> None:
        self._aim = aim
        parameters = dict(aim.network.named_parameters())
        names = [*(e.parameter for e in aim.entries), *(name for units in aim.units for name in units.masks())]
        self._parameters: dict[str, nn.Parameter] = {name: parameters[name] for name in dict.fromkeys(names)}
        self._step: int | None = None
        self.level = 0.0
        self.masks: dict[str, Tensor] = self._combined()

    @property
    def finished(self) -> bool:
        """Whether the final sparsity is reached."""
        return self.level == 1

    @torch.no_grad()
    def begin(self) -> None:
        """Before the first step: remove what is removed at once."""
        self._step = 0
        self._moved()
        self._advance()

    @torch.no_grad()
    def step(self) -> None:
        """After an optimizer step, before its gradients are cleared: change the masks when due, and hold the zeros.

        Raises: ConfigError without `begin`, or when a gradient is needed and missing.
        """
        if self._step is None:
            raise ConfigError("pruner: step() before begin(); call begin() before the first optimizer step")
        self._step += 1
        self._moved()
        hold(self._parameters, self.masks)
        if self._aim.importance.needs_gradients:
            self._aim.importance.observe(self._weights())
        self._advance()

    def _advance(self) -> None:
        """Change the masks if this step is on the timeline."""
        assert self._step is not None
        if self._step not in self._aim.timeline:
            return
        self.level = self._aim.timeline[self._step]
        weights = self._weights()
        for entries in self._aim.entries:
            scores = self._aim.importance.scores(entries.parameter, weights[entries.parameter], self._step)
            entries.kept = self._choose(entries, scores)
        for units in self._aim.units:
            units.thin(self.level)
        self.masks = self._combined()
        self._changed(weights)
        hold(self._parameters, self.masks)
        self._aim.importance.masks_changed()

    @abstractmethod
    def _choose(self, entries: Entries, scores: Tensor) -> Tensor:
        """The new mask of a weight, at `level`."""

    def _weights(self) -> Mapping[str, Tensor]:
        """The weights that are judged."""
        return self._parameters

    def _moved(self) -> None:  # noqa: B027 - a hook
        """Called after an optimizer step (and at the beginning), before the zeros are put back."""

    def _changed(self, weights: Mapping[str, Tensor]) -> None:  # noqa: B027 - a hook
        """Called with the weights that were judged, when the masks are new and the zeros not yet put in."""

    def _combined(self) -> dict[str, Tensor]:
        masks = {entries.parameter: entries.kept for entries in self._aim.entries}
        for units in self._aim.units:
            for name, mask in units.masks().items():
                before = masks.get(name)
                masks[name] = mask.expand_as(self._parameters[name]) if before is None else before & mask
        return {name: mask.contiguous() for name, mask in masks.items()}

    def state(self) -> dict[str, Tensor]:
        """Copies of all that is needed, with the network's parameters, to go on exactly."""
        tensors = {f"entries/{e.parameter}": e.kept.clone() for e in self._aim.entries}
        tensors |= {f"units/{units.name}": units.stays.clone() for units in self._aim.units}
        tensors |= {f"importance/{name}": tensor for name, tensor in self._aim.importance.state().items()}
        tensors["level"] = torch.tensor(self.level, dtype=torch.float64)
        tensors["step"] = torch.tensor(-1 if self._step is None else self._step)
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from `state`, whether begun or not. Raises: ConfigError for the state of another aim."""
        missing = sorted(self.state().keys() ^ tensors.keys())
        if missing:
            raise ConfigError(
                f"pruner: the state is of another plan or schedule, which differ in {missing[0]!r}; start anew"
            )
        for entries in self._aim.entries:
            entries.kept = tensors[f"entries/{entries.parameter}"].to(entries.weight.device, copy=True)
        for units in self._aim.units:
            units.stays = tensors[f"units/{units.name}"].to("cpu", copy=True)
        self._aim.importance.restore(
            {name.removeprefix("importance/"): t for name, t in tensors.items() if name.startswith("importance/")}
        )
        self.level = float(tensors["level"])
        self._step = int(tensors["step"]) if int(tensors["step"]) >= 0 else None
        self.masks = self._combined()
