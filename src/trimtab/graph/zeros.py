"""Values that are zero whatever the input, because the parameters on the way are."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx import Node

from trimtab.graph.analysis import attribute
from trimtab.graph.depth.branches import Operand
from trimtab.graph.depth.memory import DROPOUTS, Memory
from trimtab.graph.indices import MOVES
from trimtab.graph.layers import OPERATORS as LAYERS
from trimtab.graph.rules.elementwise import ZERO_TO_ZERO, overloads
from trimtab.graph.values import bind

aten = torch.ops.aten

_NORMS = {aten.batch_norm.default, aten.layer_norm.default, aten.group_norm.default, aten.rms_norm.default}
_TRANSPOSED = {aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input}
_LAYERS = LAYERS.keys() | _TRANSPOSED
_PRODUCTS = {aten.matmul.default, aten.mm.default, aten.bmm.default, *overloads("mul")}
_ALL = {*overloads("add", "sub"), aten.cat.default}
_POOLS = overloads("max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d")
_FIRST = {*overloads(*ZERO_TO_ZERO), *_POOLS, *MOVES, *DROPOUTS, *overloads("div"), aten.mean.dim, aten.sum.dim_IntList}
_FIRST |= {aten.hardtanh.default, aten.hardtanh_.default, aten.constant_pad_nd.default}
_ADDS = {aten.add.Tensor, aten.add_.Tensor}


def idle_additions(module: fx.GraphModule) -> list[tuple[Node, Operand]]:
    """The additions of which one operand, the one that is named, is exactly zero and the other is all of the sum.

    What may be written into later counts as it is when it is added.
    """
    memory = Memory(module.graph)
    zeros: set[Node] = set()
    found: list[tuple[Node, Operand]] = []
    for node in module.graph.nodes:
        found += [(node, operand) for operand in _idle_operands(node, zeros)]
        if _is_zero(module, node, zeros):
            zeros.add(node)
        else:
            written = set(memory.written.get(node, ()))
            zeros = {zero for zero in zeros if memory.owner[zero] not in written} if written else zeros
    return found


def _idle_operands(node: Node, zeros: set[Node]) -> Iterable[Operand]:
    """At most one: of two zeros one is left."""
    if node.target not in _ADDS:
        return
    given = bind(node)
    for mine, theirs in (("other", "self"), ("self", "other")):
        idle, left = given[mine], given[theirs]
        if idle in zeros and _is_like(left, node) and (theirs == "self" or _may_stand_for(node)):
            yield mine  # type: ignore[misc]
            return


def _is_like(value: Any, node: Node) -> bool:
    """Whether a value has the shape and the type of what a node gives."""
    mine, its = (item.meta.get("val") if isinstance(item, Node) else None for item in (value, node))
    return (
        isinstance(mine, Tensor)
        and isinstance(its, Tensor)
        and (mine.shape, mine.dtype, mine.device) == (its.shape, its.dtype, its.device)
    )


def _may_stand_for(add: Node) -> bool:
    """Whether the second operand is the sum when the first is zero: it has no factor, and its memory is not needed."""
    return add.target is aten.add.Tensor and bool(bind(add)["alpha"] == 1)


def _is_zero(module: fx.GraphModule, node: Node, zeros: set[Node]) -> bool:
    if node.op == "get_attr":
        tensor = attribute(module, str(node.target))
        return isinstance(tensor, Tensor) and bool((tensor == 0).all())
    if node.op == "call_module":
        return node.args[0] in zeros and getattr(module.get_submodule(str(node.target)), "elementwise", False)
    if node.op != "call_function" or not node.args:
        return False
    first = node.args[0]
    if node.target in _LAYERS | _NORMS:
        given = bind(node)
        factors = (given["weight"], *((given["input"],) if node.target in _LAYERS else ()))
        return any(factor in zeros for factor in factors) and (given.get("bias") is None or given["bias"] in zeros)
    if node.target in _PRODUCTS:
        return any(item in zeros for item in node.args[:2])
    if node.target in _ALL:
        items = first if isinstance(first, (list, tuple)) else node.args[:2]
        return all(item in zeros or item == 0 for item in items)
    if node.target in _FIRST:
        return first in zeros and not _fills(node)
    return False


def _fills(node: Node) -> bool:
    """Whether padding or a bound puts another number in the place of zeros."""
    given = bind(node)
    if node.target is aten.constant_pad_nd.default:
        return bool(given["value"] != 0)
    if node.target in {aten.hardtanh.default, aten.hardtanh_.default}:
        return not given["min_val"] <= 0 <= given["max_val"]
    return False
