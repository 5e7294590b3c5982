"""The proof that a cut broke nothing: the cut network against the original with the removed units masked to zero."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.utils import _pytree as pytree

from trimtab.graph.kept import Kept
from trimtab.graph.network import Network
from trimtab.graph.reference import norms_over_kept
from trimtab.graph.surgery import cut, masks
from trimtab.graph.values import set_argument
from trimtab.tasks.task import Inputs, call

TOLERANCE = 1e-9
"""Largest difference that float64 rounding explains, relative to max(1, |reference|)."""

_NARROW = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, kw_only=True)
class Verification:
    """`exact` when cut and masked network agree to rounding; else `reason`.

    `max_abs_diff` is the largest difference over `outputs` compared numbers, relative to max(1, |reference|). A layer
    or group norm over a cut axis cannot equal the masked one: there the reference takes statistics of kept units only.
    """

    exact: bool
    reason: str
    max_abs_diff: float
    outputs: int


def verify(network: Network, kept: Mapping[str, Sequence[int]]) -> Verification:
    """Run the cut and the masked network, both in eval mode and float64, on fresh random inputs of another batch size.

    Raises: PlanError as `cut`.
    """
    inexact = [group for group in map(network.group, kept) if not group.exact and len(kept[group.name]) < group.width]
    masked = doubled(network)
    with torch.no_grad():
        for name, mask in masks(masked, kept).items():
            masked.module.get_parameter(name).mul_(mask.to(masked.device))
        norms_over_kept(network, masked, Kept({network.group(name).axis: units for name, units in kept.items()}))
        inputs = fresh_inputs(network)
        difference, count = compare(call(cut(doubled(network), kept), inputs), call(masked, inputs))
    reason = ""
    if inexact:
        agrees = "; otherwise nothing differs" if difference <= TOLERANCE else ""
        reason = f"{inexact[0].name}: {inexact[0].reason}{agrees}"
    elif not difference <= TOLERANCE:
        reason = f"outputs differ by {difference:.3g} where float64 rounding allows {TOLERANCE:g}"
    return Verification(exact=not reason, reason=reason, max_abs_diff=difference, outputs=count)


def doubled(network: Network) -> Network:
    """A copy in eval mode and float64, casts inside the graph included."""
    copy = network.clone().eval()
    for node in copy.module.graph.nodes:
        node.args = pytree.tree_map(_widen, node.args)
        node.kwargs = pytree.tree_map(_widen, node.kwargs)
        _widen_created(node)
    copy.module.recompile()
    return copy.to(torch.float64)


def _widen_created(node: Node) -> None:
    """A tensor made from numbers alone has the default dtype where none is named."""
    schema, value = getattr(node.target, "_schema", None), node.meta.get("val")
    if schema is None or not isinstance(value, Tensor) or value.dtype not in _NARROW:
        return
    tensors = any(isinstance(item.meta.get("val"), Tensor) for item in node.all_input_nodes)
    if not tensors and any(argument.name == "dtype" for argument in schema.arguments):
        set_argument(node, "dtype", torch.float64)


def _widen(argument: Any) -> Any:
    return torch.float64 if argument in _NARROW and isinstance(argument, torch.dtype) else argument


def fresh_inputs(network: Network) -> Inputs:
    """Random float64 inputs like the example but with two rows more; integer inputs repeat the example's rows."""

    def fresh(tensor: Tensor) -> Tensor:
        rows = tensor.shape[0] + 2
        if tensor.is_floating_point():
            return torch.randn(rows, *tensor.shape[1:], dtype=torch.float64, device=network.device)
        return tensor[torch.arange(rows) % tensor.shape[0]].to(network.device)

    return pytree.tree_map(fresh, network.example)


def compare(output: Any, reference: Any) -> tuple[float, int]:
    """(largest difference relative to max(1, |reference|), numbers compared) over all tensors of nested outputs."""
    worst, count = 0.0, 0
    pairs = zip(pytree.tree_leaves(output), pytree.tree_leaves(reference), strict=True)
    for a, b in pairs:
        if not isinstance(b, Tensor) or not b.numel():
            continue
        difference = (a.double() - b.double()).abs() / b.double().abs().clamp(min=1)
        worst = max(worst, float(difference.nan_to_num(nan=float("inf")).max()))
        count += b.numel()
    return worst, count
