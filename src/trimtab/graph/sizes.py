"""Re-emission of written-out sizes (the shape argument of a view) after a cut."""

from collections.abc import Sequence
from fractions import Fraction
from operator import floordiv, mul
from typing import Any

import torch
from torch.fx import Node

from trimtab.graph.axes import Dim, size
from trimtab.graph.kept import Kept
from trimtab.graph.values import Call, Count, bind, set_argument


def emit_sizes(call: Call, name: str, dims: Sequence[Dim]) -> None:
    """Write the sizes of `dims` anew into the list argument `name` when a cut changes them.

    -1 stays; a computed size (a batch) that does not follow the cut by itself is multiplied by new and divided by old.
    """
    counts = [_count(call, item) for item in call.raw(name)]

    def fix(node: Node, kept: Kept) -> None:
        old = bind(node)[name]
        new = [_emit(node, item, dim, count, kept) for item, dim, count in zip(old, dims, counts, strict=True)]
        if new != list(old):
            set_argument(node, name, new)

    call.fix(fix)


def scale_output(node: Node, factor: float) -> None:
    """Multiply a node's output, for all its users, by a constant."""
    with node.graph.inserting_after(node):
        scaled = node.graph.call_function(torch.ops.aten.mul.Tensor, (node, factor))
    scaled.meta = dict(node.meta)
    node.replace_all_uses_with(scaled, delete_user_cb=lambda user: user is not scaled)


def _count(call: Call, item: Any) -> Dim:
    found = call.facts.values.get(item) if isinstance(item, Node) else None
    return found.dim if isinstance(found, Count) else ()


def _emit(node: Node, item: Any, dim: Dim, count: Dim, kept: Kept) -> Any:
    ratio = Fraction(kept.size(dim), size(dim) or 1)
    if isinstance(item, Node):
        ratio /= Fraction(kept.size(count), size(count))
        if ratio == 1:
            return item
        with node.graph.inserting_before(node):
            grown = node.graph.call_function(mul, (item, ratio.numerator))
            return node.graph.call_function(floordiv, (grown, ratio.denominator))
    return item if item == -1 or ratio == 1 else kept.size(dim)
