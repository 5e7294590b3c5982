"""Collect statistics of a network over batches: every statistic that was asked for, in one pass."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.errors import ConfigError, NumericsError, TaskError
from trimtab.graph import ChannelGroup, Network, ParamDim
from trimtab.stats.units import sum_by_unit
from trimtab.tasks.task import Loader, call, evaluating

KNOWN = frozenset({"gradient"})


@dataclass(frozen=True, kw_only=True)
class Stats:
    """What one pass over `batches` batches found; a statistic that was not asked for is empty.

    `gradient` maps a group's name to [batches, width] float64: the derivative of each batch's loss with respect to a
    gate on each unit, that is Σ w·∂L/∂w over the weights that read the unit (its "in" slices). To first order it is
    what the loss gains when the unit is there. The signs are kept, so that a criterion may take |·|, squares or means.
    """

    batches: int = 0
    gradient: Mapping[str, Tensor] = field(default_factory=dict)


def collect(
    network: Network, batches: Loader, loss: Callable[[Any, Any], Tensor] | None, needs: Collection[str]
) -> Stats:
    """Pass once over `batches` of `(inputs, target)` with the network in evaluation mode.

    `needs` names statistics; known: gradient. Mode, `.grad` and `requires_grad` of the network are afterwards what
    they were before.
    Raises: ConfigError for an unknown need or a missing loss, TaskError for no batches, NumericsError for a loss or
    gradient that is not finite.
    """
    unknown = sorted(set(needs) - KNOWN)
    if unknown:
        raise ConfigError(f"statistics: unknown need {unknown[0]!r}; known: {', '.join(sorted(KNOWN))}")
    if not needs:
        return Stats()
    if loss is None:
        raise ConfigError("statistics: 'gradient' needs a loss, got None; give the task's loss or another criterion")
    readers = {group.name: _readers(group) for group in network.groups}
    parameters = _named(network, {member.parameter for members in readers.values() for member in members})
    rows: dict[str, list[Tensor]] = {group.name: [] for group in network.groups}
    count = 0
    with evaluating(network), _requiring_grad(parameters.values()):
        for count, (inputs, target) in enumerate(batches, start=1):
            products = _weight_times_gradient(parameters, loss(call(network, inputs), target), batch=count)
            for group in network.groups:
                parts = [sum_by_unit(network, group, m, products[m.parameter]) for m in readers[group.name]]
                rows[group.name].append(torch.stack(parts).sum(0))
    if count == 0:
        raise TaskError("statistics: the loader has no batches; give at least one")
    return Stats(batches=count, gradient={name: torch.stack(batch_rows) for name, batch_rows in rows.items()})


def _readers(group: ChannelGroup) -> tuple[ParamDim, ...]:
    """The slices that read the group's units; where none reads (the units are an output), those that make them.

    One side only: a gate before the readers and one after the makers are the same gate, and would count twice.
    """
    readers = tuple(member for member in group.members if member.role == "in")
    return readers or tuple(member for member in group.members if member.role == "out")


def _weight_times_gradient(parameters: Mapping[str, nn.Parameter], value: Tensor, *, batch: int) -> dict[str, Tensor]:
    if not torch.isfinite(value).all():
        raise NumericsError(
            f"statistics: the loss of batch {batch} is {value.item()}; check inputs, targets and weights"
        )
    gradients = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
    products = {}
    for (name, weight), gradient in zip(parameters.items(), gradients, strict=True):
        product = torch.zeros_like(weight) if gradient is None else weight.detach() * gradient
        products[name] = product
        if not torch.isfinite(products[name]).all():
            raise NumericsError(f"statistics: the gradient of {name} in batch {batch} is not finite; check the loss")
    return products


def _named(network: Network, wanted: Collection[str]) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in network.named_parameters() if name in wanted}


@contextmanager
def _requiring_grad(parameters: Collection[nn.Parameter]) -> Iterator[None]:
    """Parameters require gradients inside the block; frozen ones are frozen again afterwards."""
    frozen = [parameter for parameter in parameters if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
