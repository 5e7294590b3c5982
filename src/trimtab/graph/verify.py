"""The proof that a cut broke nothing: the cut network against the original with the removed units masked to zero."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from trimtab.graph.depth.removal import silence, without
from trimtab.graph.double import doubled
from trimtab.graph.groups import ChannelGroup
from trimtab.graph.kept import Kept
from trimtab.graph.network import Network
from trimtab.graph.reference import norms_over_kept
from trimtab.graph.surgery import cut, masks
from trimtab.tasks.task import Inputs, call

TOLERANCE = 1e-9
"""Largest difference that float64 rounding explains, relative to the largest output or 1."""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """`exact` when cut and masked network agree to rounding; else `reason`.

    `max_abs_diff` is the largest difference over `outputs` compared numbers, relative to the largest |reference| of its
    tensor, or to 1 if that is less. A layer or group norm over a cut axis cannot equal the masked one: there the
    reference takes statistics of kept units only.
    """

    exact: bool
    reason: str
    max_abs_diff: float
    outputs: int


def verify(network: Network, kept: Mapping[str, Sequence[int]], removed: Sequence[str] = ()) -> Verification:
    """Run the cut and the masked network, both in eval mode and float64, on fresh random inputs of another batch size.

    Of the branches named by `removed` the masked network multiplies by zero what they add.
    Raises: PlanError as `cut`, and for an unknown branch.
    """
    branches = [network.branch(name) for name in removed]
    gone = {name for branch in branches for name in branch.parameters}
    cut_groups = [group for group in map(network.group, kept) if len(kept[group.name]) < group.width]
    inexact = [group for group in cut_groups if not group.exact and not _within(group, gone)]
    masked = doubled(network)
    small = without(cut(masked, kept), branches)
    with torch.no_grad():
        for name, mask in masks(masked, kept).items():
            masked.module.get_parameter(name).mul_(mask.to(masked.device))
        norms_over_kept(network, masked, Kept({network.group(name).axis: units for name, units in kept.items()}))
        silence(masked, branches)
        inputs = fresh_inputs(network)
        difference, count = compare(call(small, inputs), call(masked, inputs))
    reason = ""
    if inexact:
        agrees = "; otherwise nothing differs" if difference <= TOLERANCE else ""
        reason = f"{inexact[0].name}: {inexact[0].reason}{agrees}"
    elif not difference <= TOLERANCE:
        reason = f"outputs differ by {difference:.3g} where float64 rounding allows {TOLERANCE:g}"
    return Verification(exact=not reason, reason=reason, max_abs_diff=difference, outputs=count)


def _within(group: ChannelGroup, gone: set[str]) -> bool:
    """Whether all parameters that a group reaches are among these."""
    return gone.issuperset(member.parameter for member in group.members if member.role != "buffer")


def fresh_inputs(network: Network) -> Inputs:
    """Random float64 inputs like the example but with two rows more; integer inputs repeat the example's rows."""

    def fresh(tensor: Tensor) -> Tensor:
        rows = tensor.shape[0] + 2
        if tensor.is_floating_point():
            return torch.randn(rows, *tensor.shape[1:], dtype=torch.float64, device=network.device)
        return tensor[torch.arange(rows) % tensor.shape[0]].to(network.device)

    return pytree.tree_map(fresh, network.example)


def compare(output: Any, reference: Any) -> tuple[float, int]:
    """(largest difference, numbers compared) over all tensors of nested outputs.

    A difference is relative to the largest finite |reference| of its tensor, or to 1 if that is less.
    """
    worst, count = 0.0, 0
    pairs = zip(pytree.tree_leaves(output), pytree.tree_leaves(reference), strict=True)
    for a, b in pairs:
        if not isinstance(b, Tensor) or not b.numel():
            continue
        a, b = a.double(), b.double()
        scale = b.abs().nan_to_num(posinf=0.0).max().clamp(min=1)
        difference = torch.where(a == b, 0.0, (a - b).abs() / scale)
        worst = max(worst, float(difference.nan_to_num(nan=inf, posinf=inf).max()))
        count += b.numel()
    return worst, count
