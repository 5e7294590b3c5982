"""What every registered criterion promises: finite scores of the right shape, the same every time, for what it scores.

And what it says of itself (`Criterion.promises`): on networks whose units are put in another order, whose layers are
scaled, or in which a unit, a weight or a branch of zeros is planted.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from trimtab.errors import ConfigError
from trimtab.graph import ChannelGroup, Network
from trimtab.prune import CRITERIA, BranchCriterion, Criterion, EntryCriterion, UnitCriterion
from trimtab.prune.masks import prunable
from trimtab.stats import Stats, collect
from trimtab.tasks.task import Inputs

Batches = Sequence[tuple[Inputs, Any]]
Loss = Callable[[Any, Any], Tensor]

_ROUNDING = 1e-3  # of the largest score: what sums of float32 in another order may lose


def criterion_cases() -> list[str]:
    """Every registered criterion."""
    return list(CRITERIA)


def check_criterion(name: str, network: Network, batches: Batches, loss: Loss) -> int:
    """Score all units, weights and branches of `network`, and of changed copies of it; it stays as it is.

    A criterion may refuse a group or a parameter with a ConfigError that names it. Returns how many groups it scored.
    Raises: AssertionError naming the promise that is broken.
    """
    criterion = CRITERIA.load(name)()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    units, entries, branches = _scores(name, criterion, network, batches, loss)
    again = _scores(name, criterion, network, batches, loss)
    for first, second in zip((units, entries, branches), again, strict=True):
        assert all(torch.equal(first[key], second[key]) for key in first), f"{name}: scores are the same every time"
    after = network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before), f"{name}: the network stays as it is"
    for promise in criterion.promises:
        _PROMISES[promise](name, network, units, lambda other: _scores(name, criterion, other, batches, loss))
    return len(units)


_All = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]
_Score = Callable[[Network], _All]


def _scores(name: str, criterion: Criterion, network: Network, batches: Batches, loss: Loss) -> _All:
    """By group, by parameter, by branch; each checked for shape, type and finiteness."""
    stats = collect(network, batches, loss, criterion.needs)
    units, entries, branches = {}, {}, {}
    if isinstance(criterion, UnitCriterion):
        units = {
            group.name: score for group in network.groups for score in _units(name, criterion, network, group, stats)
        }
    if isinstance(criterion, EntryCriterion):
        for parameter in prunable(network).values():
            score = criterion.entries(network, parameter, stats)
            shape = network.module.get_parameter(parameter).shape
            assert score.shape == shape, f"{name}: {parameter}: a score for each of {shape}, got {score.shape}"
            entries[parameter] = score
    if isinstance(criterion, BranchCriterion):
        branches = {b.name: torch.tensor(criterion.branch(network, b, stats)).double() for b in network.branches}
    for where, score in [*units.items(), *entries.items(), *branches.items()]:
        assert score.dtype == torch.float64, f"{name}: {where}: scores are float64, got {score.dtype}"
        assert bool(score.isfinite().all()), f"{name}: {where}: scores are finite, got {score}"
    return units, entries, branches


def _units(
    name: str, criterion: UnitCriterion, network: Network, group: ChannelGroup, stats: Stats
) -> Iterator[Tensor]:
    """The scores of a group, or none where the criterion refuses it."""
    scores, refusal = None, ""
    try:
        scores = criterion(network, group, stats)
    except ConfigError as error:
        refusal = str(error)
    if scores is None:
        assert group.name in refusal, f"{name}: what it refuses it names: {group.name!r} is not in {refusal!r}"
        return
    assert scores.group == group.name, f"{name}: scores name their group {group.name!r}, got {scores.group!r}"
    assert scores.values.shape == (group.width,), f"{name}: {group.name}: one score a unit, got {scores.values.shape}"
    yield scores.values


def permuted(network: Network, order: Callable[[ChannelGroup], Tensor]) -> Network:
    """A copy that computes the same with the units of every group in another order: new unit i is old `order[i]`."""
    copy = network.clone()
    for group in network.groups:
        new = order(group)
        for member in group.members:
            tensor = dict([*copy.named_parameters(), *copy.named_buffers()])[member.parameter].data
            units = network.units(group, member)
            positions = torch.arange(len(units))
            for i in range(group.width):
                positions[units == i] = torch.nonzero(units == new[i]).squeeze(1)
            tensor.copy_(tensor.index_select(member.dim, positions.to(tensor.device)))
    return copy


def _equivariant(name: str, network: Network, units: dict[str, Tensor], score: _Score) -> None:
    orders = {
        group.name: torch.randperm(group.width, generator=torch.Generator().manual_seed(i))
        for i, group in enumerate(network.groups)
    }
    other = permuted(network, lambda group: orders[group.name])
    after = score(other)[0]
    for group, scores in units.items():
        rounding = _ROUNDING * float(scores.abs().max())
        assert torch.allclose(after[group], scores[orders[group]], rtol=_ROUNDING, atol=rounding), (
            f"{name}: {group}: units in another order keep their scores: {after[group]} from {scores[orders[group]]}"
        )


def _scale_free(name: str, network: Network, units: dict[str, Tensor], score: _Score) -> None:
    other = network.clone()
    for parameter in other.parameters():
        parameter.data.mul_(37.0)
    for group, scores in score(other)[0].items():
        assert torch.allclose(scores, units[group]), f"{name}: {group}: a layer's scale does not matter"


def _useless_unit(name: str, network: Network, units: dict[str, Tensor], score: _Score) -> None:
    other = network.clone()
    for group in network.groups:
        for member in group.members:
            if member.role != "buffer":
                last = torch.nonzero(network.units(group, member) == group.width - 1).squeeze(1)
                other.module.get_parameter(member.parameter).data.index_fill_(member.dim, last, 0.0)
    for group_name, scores in score(other)[0].items():
        assert scores[-1] <= scores.min(), f"{name}: {group_name}: the unit of zeros has the lowest of {scores}"


def _useless_entry(name: str, network: Network, units: dict[str, Tensor], score: _Score) -> None:
    other = network.clone()
    for parameter in prunable(network).values():
        other.module.get_parameter(parameter).data.flatten()[-1] = 0.0
    for parameter, scores in score(other)[1].items():
        least = scores.flatten()[-1]
        assert least <= scores.min(), f"{name}: {parameter}: the weight of zero has the lowest score, got {least}"


def _useless_branch(name: str, network: Network, units: dict[str, Tensor], score: _Score) -> None:
    if not network.branches:
        return
    other, last = network.clone(), network.branches[-1]
    for parameter in last.parameters:
        other.module.get_parameter(parameter).data.zero_()
    scores = score(other)[2]
    assert scores[last.name] <= min(scores.values()), f"{name}: a branch that adds nothing has the lowest of {scores}"


_PROMISES = {
    "equivariant": _equivariant,
    "scale_free": _scale_free,
    "useless_unit": _useless_unit,
    "useless_entry": _useless_entry,
    "useless_branch": _useless_branch,
}
