"""Outputs as probabilities of classes, whatever layout they come in."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_MOST_LABELS = 2_000_000
"""Of more (pixels, tokens) every second, third, … is looked at."""
_TINY = 1e-12


@dataclass(frozen=True)
class Labelled:
    """Log-probabilities [labels, classes], the right classes [labels], and of which row each label is [labels]."""

    log_probabilities: Tensor
    labels: Tensor
    row: Tensor

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return self.log_probabilities.shape[1]

    def every(self, step: int) -> "Labelled":
        """Every so many-th label."""
        return Labelled(self.log_probabilities[::step], self.labels[::step], self.row[::step])

    @cached_property
    def predicted(self) -> Tensor:
        """The most probable class of each."""
        return self.log_probabilities.argmax(1)

    @cached_property
    def confidence(self) -> Tensor:
        """The probability of it."""
        return self.log_probabilities.max(1).values.exp()

    @cached_property
    def right(self) -> Tensor:
        """Whether it is the right one."""
        return self.predicted == self.labels


def labelled(outputs: Any, targets: Any) -> Labelled | None:
    """None where outputs are not one number a class (or one for two classes) and targets not classes.

    Outputs may be scores, log-probabilities or probabilities: [rows, classes], [rows, classes, …], [rows, …, classes]
    with labels [rows, …]; or of the labels' shape, for the second of two classes. Negative labels are left out.
    """
    if not (isinstance(outputs, Tensor) and isinstance(targets, Tensor) and outputs.is_floating_point()):
        return None
    if not torch.equal(targets, targets.round()) or outputs.numel() == 0:
        return None
    found = _log_probabilities(outputs, targets)
    if found is None:
        return None
    labels = targets.reshape(-1).long()
    row = torch.arange(len(targets)).repeat_interleave(labels.numel() // len(targets))
    every = -(-labels.numel() // _MOST_LABELS)
    found, labels, row = found[::every], labels[::every], row[::every]
    counted = labels >= 0
    if bool((labels >= found.shape[1]).any()) or not bool(counted.any()):
        return None
    return Labelled(found[counted], labels[counted], row[counted])


def _log_probabilities(outputs: Tensor, targets: Tensor) -> Tensor | None:
    """[labels, classes]; None where the shapes do not fit."""
    if outputs.dim() == targets.dim() + 1:
        for axis in (1, -1):
            if outputs.shape[axis] > 1 and outputs.select(axis, 0).shape == targets.shape:
                return _of_many(outputs.movedim(axis, -1).flatten(0, -2).double())
    if outputs.numel() == targets.numel() and bool(((targets == 0) | (targets == 1)).all()):
        return _of_two(outputs.reshape(-1).double())
    return None


def _of_many(outputs: Tensor) -> Tensor:
    sums_to_one = bool((outputs >= 0).all()) and torch.allclose(
        outputs.sum(1), torch.ones(len(outputs)).double(), atol=1e-3
    )
    return outputs.clamp(min=_TINY).log() if sums_to_one else F.log_softmax(outputs, 1)


def _of_two(outputs: Tensor) -> Tensor:
    if bool(((outputs >= 0) & (outputs <= 1)).all()):
        return torch.stack([1 - outputs, outputs], 1).clamp(min=_TINY).log()
    return torch.stack([F.logsigmoid(-outputs), F.logsigmoid(outputs)], 1)
