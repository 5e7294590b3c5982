"""The weights of one layer, solved: least squares where they may change, what leaves, what the rest is stored as."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trimtab.errors import ConfigError
from trimtab.quant import WeightFakeQuantize
from trimtab.recover.rounding import Solved, rate_distortion, round_weight, sweep
from trimtab.solve import Gathering, Moments, Pieces, choose_damping, least_squares, on_survivors, pulled, surgery

SOLVING = ("least_squares", "gptq", "coordinate_descent", "adaround", "block", "joint", "rate_distortion")
"""Solvers that move the float weights to the least squares first."""

FINDING = ("joint", "block", "sparsegpt", "sweep")
"""Solvers that find themselves which weights leave."""

_SWEEPING = ("sparsegpt", "sweep")
_DAMPING = 0.01


@dataclass(frozen=True)
class Problem:
    """One layer: `weight` [groups, m, n] with nothing removed, and `moments` of its inputs and of its own results.

    `halves` are those of two halves of the rows. `gain` [groups, m]: what an output counts behind batch norm. `pieces`
    leave, those outside of `kept` when the solver does not choose; both None where nothing does. `rounding` is the
    grid; None: float.
    """

    name: str
    shape: torch.Size
    weight: Tensor
    moments: Moments
    halves: tuple[Moments, Moments]
    gain: Tensor
    pieces: Pieces | None
    kept: Tensor | None
    rounding: WeightFakeQuantize | None


def gathered_in_halves(pairs: Iterable[tuple[Tensor, Tensor]]) -> tuple[Gathering, Gathering]:
    """Of what is read [groups, rows, n] and wanted [groups, rows, m]: the first and the second half of every batch."""
    halves = (Gathering(), Gathering())
    for number, (read, wanted) in enumerate(pairs):
        middle = (read.shape[1] + number % 2) // 2
        for half, rows in zip(halves, (slice(None, middle), slice(middle, None)), strict=True):
            if read[:, rows].shape[1]:
                half.add(read[:, rows], wanted[:, rows])
    return halves


def damping_for(given: Problem) -> float:
    """How much a solution is pulled to the weight: `choose_damping`, where an output counts as behind batch norm."""
    gain = given.gain[..., None]
    rough = solve_weight(given, "nearest", None).used
    first, second = (replace(half, mean_y=half.mean_y * given.gain, cross=half.cross * gain) for half in given.halves)
    same = torch.equal(rough, given.weight)
    return choose_damping(first, second, given.weight * gain, None if same else rough * gain)


def solve_weight(given: Problem, solver: str, damping: float | None, price: float = 0.0) -> Solved:
    """What is stored and computed with. `damping` pulls the least squares to the weight; None: no least squares.
    `price` is what a bit may cost, for the solver "rate_distortion".

    Raises: ConfigError for a solver that cannot remove such pieces.
    """
    weight, kept, near = given.weight, given.kept, given.moments
    if given.pieces is not None and solver in _SWEEPING:
        return _in_sweeps(given, given.pieces, solver)
    if damping is not None:
        near = pulled(given.moments, weight, damping)
        weight = least_squares(near.gram, near.cross)
        if given.pieces is not None and solver in FINDING:
            kept = surgery(weight * given.gain[..., None], near.gram, given.pieces)
    if kept is not None:
        weight = weight * kept if damping is None else on_survivors(near.gram, near.cross, kept)
    if given.rounding is None:
        return Solved(weight, weight)
    if solver == "rate_distortion":
        return rate_distortion(given.rounding, weight, near, given.gain, price)
    finds = given.pieces if solver in FINDING else None
    return round_weight(given.rounding, given.shape, weight, near, kept, finds, solver)


def _in_sweeps(given: Problem, pieces: Pieces, solver: str) -> Solved:
    """SparseGPT and then GPTQ, or both in one sweep: for comparison, and for layers too wide for anything else."""
    if not pieces.single:
        raise ConfigError(f"{given.name}: solver {solver!r} removes single weights or N of M; choose 'joint'")
    if solver == "sweep" or given.rounding is None:
        swept = sweep(given.rounding, given.shape, given.weight, given.moments, pieces)
        return Solved(swept, swept)
    swept = sweep(None, given.shape, given.weight, given.moments, pieces)
    near = pulled(given.moments, swept, _DAMPING)
    return round_weight(given.rounding, given.shape, swept, near, swept != 0, None, "gptq")
