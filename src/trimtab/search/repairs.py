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
from trimtab.search.space import Unit, solver_of
from trimtab.solve import coded_bits, least_squares, pulled
from trimtab.tasks.task import Inputs

State = dict[str, Tensor]
"""Tensors of the network, by name, that are others."""

_DAMPING = 1e-2


@dataclass(frozen=True)
class Repairs:
    """`codes`: of a layer whose weight is stored so, at a price, and their `bits` in an entropy-coded file; `readers`:
    of a unit that keeps so many channels.
    """

    codes: dict[tuple[str, Scheme, float], State] = field(default_factory=dict)
    bits: dict[tuple[str, Scheme, float], float] = field(default_factory=dict)
    readers: dict[tuple[str, int], State] = field(default_factory=dict)


def find_repairs(
    network: Network,
    batches: Sequence[Inputs],
    units: Sequence[Unit],
    wanted: Mapping[str, Sequence[tuple[Scheme, float]]],
) -> Repairs:
    """One pass over the layers: each is solved for the schemes and prices `wanted` of it, and every loss of inputs.

    A layer that reads a group makes up for the channels that a unit drops by least squares on the others.
    """
    found = Repairs()
    reads = _readers(network, units)
    for trial in trials(network, batches):
        name = trial.problem.name
        for how, weight, bits in _rounded(network, trial.problem, wanted.get(name, ())):
            found.codes[name, *how], found.bits[name, *how] = trial.changed(weight), bits
        near = pulled(trial.problem.moments, trial.problem.weight, _DAMPING)
        for unit, member in reads.get(network.layer(name).weight, ()):
            for kept in sorted({option.kept for option in unit.options if option.kept < unit.width}):
                left = _columns(network, trial, unit, member, kept)
                rows = torch.zeros_like(trial.problem.weight)
                rows[:, :, left] = least_squares(near.gram[:, left][:, :, left], near.cross[:, :, left])
                found.readers.setdefault((unit.name, kept), {}).update(trial.changed(rows))
    return found


def _rounded(
    network: Network, problem: Problem, wanted: Sequence[tuple[Scheme, float]]
) -> Iterator[tuple[tuple[Scheme, float], Tensor, float]]:
    """The weight [groups, m, n] on each grid, and its bits; by the layer solver, all with the first one's damping."""
    damping = None
    for scheme, price in wanted:
        parameter = network.module.get_parameter(network.layer(problem.name).weight)
        rounding = WeightFakeQuantize(grid_of(scheme), parameter, scheme.granularity, where=problem.name)
        given = replace(problem, rounding=rounding)
        damping = damping_for(given) if damping is None else damping
        solver = solver_of(price, problem.weight.shape[2])
        solved = solve_weight(given, solver, damping, price)
        yield (scheme, price), solved.used, coded_bits(rounding.codes(solved.weight.reshape(problem.shape)))


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
