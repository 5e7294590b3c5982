"""What a single option sets anew, on the inputs of the float network: solved codes, and readers of what is gone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from trimtab.graph import Network, ParamDim
from trimtab.plan import Scheme
from trimtab.quant import WeightFakeQuantize
from trimtab.quant.grids.kernels import grid_of
from trimtab.recover.layerwise import Problem, damping_for, solve_weight
from trimtab.recover.reconstruct import Trial, trials
from trimtab.search.space import Unit, solver_for
from trimtab.solve import least_squares, pulled
from trimtab.tasks.task import Inputs

State = dict[str, Tensor]
"""Tensors of the network, by name, that are others."""

_DAMPING = 1e-2


@dataclass(frozen=True)
class Repairs:
    """`codes`: of a layer whose weight has so few bits; `readers`: of a unit that keeps so many channels."""

    codes: dict[tuple[str, Scheme], State] = field(default_factory=dict)
    readers: dict[tuple[str, int], State] = field(default_factory=dict)


def find_repairs(
    network: Network,
    batches: Sequence[Inputs],
    units: Sequence[Unit],
    narrow: Mapping[str, Sequence[Scheme]],
) -> Repairs:
    """One pass over the layers: each is solved for every scheme that `narrow` names for it, and every loss of inputs.

    A layer that reads a group makes up for the channels that a unit drops by least squares on the others.
    """
    found = Repairs()
    reads = _readers(network, units)
    for trial in trials(network, batches):
        name = trial.problem.name
        found.codes.update(
            {(name, s): trial.changed(w) for s, w in _rounded(network, trial.problem, narrow.get(name, ()))}
        )
        near = pulled(trial.problem.moments, trial.problem.weight, _DAMPING)
        for unit, member in reads.get(network.layer(name).weight, ()):
            for kept in sorted({option.kept for option in unit.options if option.kept < unit.width}):
                left = _columns(network, trial, unit, member, kept)
                rows = torch.zeros_like(trial.problem.weight)
                rows[:, :, left] = least_squares(near.gram[:, left][:, :, left], near.cross[:, :, left])
                found.readers.setdefault((unit.name, kept), {}).update(trial.changed(rows))
    return found


def _rounded(network: Network, problem: Problem, schemes: Sequence[Scheme]) -> Iterator[tuple[Scheme, Tensor]]:
    """The weight [groups, m, n] on the grid of each scheme, by the layer solver, all with the first one's damping."""
    damping = None
    for scheme in schemes:
        parameter = network.module.get_parameter(network.layer(problem.name).weight)
        rounding = WeightFakeQuantize(grid_of(scheme), parameter, scheme.granularity, where=problem.name)
        given = replace(problem, rounding=rounding)
        damping = damping_for(given) if damping is None else damping
        yield scheme, solve_weight(given, solver_for(problem.weight.shape[2]), damping).used


def _readers(network: Network, units: Sequence[Unit]) -> Mapping[str, list[tuple[Unit, ParamDim]]]:
    """By weight the units whose channels it reads."""
    found: dict[str, list[tuple[Unit, ParamDim]]] = {}
    for unit in units:
        for member in network.group(unit.group).members if unit.group is not None else ():
            if member.role == "in" and member.dim == 1:
                found.setdefault(member.parameter, []).append((unit, member))
    return found


def _columns(network: Network, trial: Trial, unit: Unit, member: ParamDim, kept: int) -> Tensor:
    """Which columns of the weight read channels that are still there. [n] of bool"""
    read = network.units(network.group(unit.group or ""), member)
    gone = torch.zeros(unit.width, dtype=torch.bool)
    gone[list(unit.order[kept:])] = True
    left = (read < 0) | ~gone[read.clamp(min=0)]
    return left.repeat_interleave(trial.problem.shape[2:].numel())
