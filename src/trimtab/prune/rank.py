"""Rank the units of a group."""

import torch

from trimtab.prune.scores import Scores


def rank(scores: Scores) -> tuple[int, ...]:
    """All units from the highest score to the lowest; of equal scores the lower index comes first."""
    return tuple(torch.sort(scores.values, descending=True, stable=True).indices.tolist())
