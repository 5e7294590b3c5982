"""Curves: how far the network's outputs move when one subject alone loses pieces, measured, as data."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from trimtab.errors import ConfigError, TaskError
from trimtab.graph import Network
from trimtab.measure import divergence, outputs_of
from trimtab.plan import Record
from trimtab.recover.batchnorm import reestimate_batchnorm
from trimtab.search.profile import Progress
from trimtab.search.pruning.subject import Points, Subject
from trimtab.tasks.rows import lay_out
from trimtab.tasks.switches import evaluating
from trimtab.tasks.task import Inputs

_LEFT = (7 / 8, 3 / 4, 1 / 2, 1 / 4, 1 / 8, 1 / 32, 1 / 128)
"""Shares of its pieces that a subject has left where its curve is measured, besides the end."""

_FEW = 8
"""Where fewer pieces would be left, only the end is measured: a straight line does."""


class Curves(Record):
    """Of every subject the divergence when so many of its pieces are gone; of one network, granularity and criterion.

    Points rise from (0, 0) on. They depend on the batches that they were measured on.
    """

    fingerprint: str
    granularity: str
    criterion: str
    points: dict[str, Points]

    def check(self, fingerprint: str, granularity: str, criterion: str, subjects: Sequence[Subject]) -> None:
        """Raises: ConfigError when they are of something else."""
        mine = (self.fingerprint[:12], self.granularity, self.criterion)
        asked = (fingerprint[:12], granularity, criterion)
        if mine != asked:
            raise ConfigError(
                f"prune: the curves are of network {mine[0]}…, {mine[1]}, {mine[2]!r}, asked is {asked[0]}…, "
                f"{asked[1]}, {asked[2]!r}; measure them again"
            )
        for subject in subjects:
            points = self.points.get(subject.name, ())
            if len(subject.removals) and (not points or points[-1][0] < int(subject.removals[-1])):
                raise ConfigError(
                    f"prune: the curves do not reach the {int(subject.removals[-1])} pieces that {subject.name} can "
                    "lose (another target, or other names to leave); measure them again"
                )


def measure_points(
    network: Network,
    subjects: Sequence[Subject],
    without: Callable[[str, int], Network],
    batches: Iterable[tuple[Inputs, Any]],
    progress: Progress,
) -> dict[str, Points]:
    """Every subject's curve. `without(name, pieces)` is the network without so many pieces of that subject alone.

    Batch norm of both is re-estimated on the inputs of the batches, then their outputs are compared (`divergence`).
    Raises: TaskError for no batches, NumericsError for outputs that are not finite.
    """
    inputs = [lay_out(batch, torch.channels_last) for batch, _ in batches]
    if not inputs:
        raise TaskError("prune: 'sensitivity' measures on batches and got none; give batches=[(inputs, target), …]")
    with evaluating(network):  # batch norm re-estimated here, too, so that only what is removed shows
        reference = outputs_of(reestimate_batchnorm(network, inputs), inputs)
    where = {subject.name: _places(subject) for subject in subjects}
    found: dict[str, Points] = {}
    with progress.stage("curves", total=sum(map(len, where.values()))) as advance:
        for name, places in where.items():
            points = [(0, 0.0)]
            for pieces in places:
                variant = reestimate_batchnorm(without(name, pieces).eval(), inputs)
                points.append((pieces, divergence(outputs_of(variant, inputs), reference)))
                advance()
            found[name] = tuple(points)
    return found


def _places(subject: Subject) -> list[int]:
    """The numbers of removed pieces at which to measure: those that may be, nearest to the wanted shares."""
    if not len(subject.removals):
        return []
    wanted = torch.tensor([subject.pieces * (1 - left) for left in _LEFT if subject.pieces * left >= _FEW])
    steps = torch.searchsorted(subject.removals, wanted).clamp(max=len(subject.removals) - 1)
    return sorted({*subject.removals[steps].tolist(), int(subject.removals[-1])})
