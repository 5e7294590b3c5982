"""One form for what can be written in several ways, before a graph is folded: pools, means, rows of linear layers."""

from typing import Any

import torch
from torch.fx import GraphModule, Node

from trimtab.errors import LoweringError
from trimtab.graph.copying import described
from trimtab.graph.source import of_node
from trimtab.graph.values import bind
from trimtab.quant.operators import ADAPTIVE_POOLS, AVERAGE_POOLS, FUSED_ACTIVATIONS, averages_whole_map, only_user
from trimtab.quant.ops import DEQUANTIZE, QUANTIZE

aten = torch.ops.aten

_VANISHING = {
    aten.dropout.default,
    aten.dropout_.default,
    aten.contiguous.default,
    aten.clone.default,
    aten.alias.default,
}
_POOLS = {*AVERAGE_POOLS, *ADAPTIVE_POOLS, aten.mean.dim}


def canonical(module: GraphModule) -> None:
    """Rewrite pools and means, and leave out what changes nothing in eval mode, in place."""
    for node in list(module.graph.nodes):
        if node.target in _VANISHING:
            node.replace_all_uses_with(node.args[0])
        elif node.target in _POOLS and averages_whole_map(node):
            _canonical_mean(module, node)
        elif node.target in ADAPTIVE_POOLS:
            _canonical_pool(node)
        elif node.target in AVERAGE_POOLS:
            _plain_windows(node)


def _canonical_mean(module: GraphModule, node: Node) -> None:
    """Global average pooling in one form: a mean that keeps its dimensions, rounded there if it is rounded."""
    rank = node.args[0].meta["val"].dim()  # type: ignore[union-attr]
    keeps = node.target != aten.mean.dim or (len(node.args) > 2 and bool(node.args[2]))
    last = next(iter(node.users))
    rounded = len(node.users) == 1 and last.op == "call_module"
    with module.graph.inserting_before(node):
        mean = module.graph.call_function(aten.mean.dim, (node.args[0], list(range(2, rank)), True))
        mean.meta = described(node)
        result = module.graph.call_module(str(last.target), (mean,)) if rounded else mean
        result.meta = described(node)
        if not keeps:
            result = module.graph.call_function(aten.flatten.using_ints, (result, 1))
            result.meta = described(node)
    (last if rounded else node).replace_all_uses_with(result)


def _canonical_pool(node: Node) -> None:
    """Adaptive average pooling whose windows are all alike is plain average pooling."""
    before, after = (list(value.meta["val"].shape[2:]) for value in (node.args[0], node))  # type: ignore[union-attr]
    if any(large % small for large, small in zip(before, after, strict=True)):
        return
    window = [large // small for large, small in zip(before, after, strict=True)]
    node.target = aten.avg_pool1d.default if len(window) == 1 else aten.avg_pool2d.default
    node.args = (node.args[0], window, window, [0] * len(window), False, True)


def _plain_windows(node: Node) -> None:
    """Average pooling as runtimes understand it: they divide by the whole window where padding is counted.

    torch divides the partial windows of `ceil_mode` by the part inside the padded map.
    """
    given = bind(node)
    if given.get("divisor_override"):
        raise LoweringError(f"{of_node(node)}: average pooling with divisor_override has no runtime; multiply after it")
    before, after = (list(value.meta["val"].shape[2:]) for value in (node.args[0], node))  # type: ignore[union-attr]
    window, padding = (_each(given[name], len(before)) for name in ("kernel_size", "padding"))
    stride = _each(given["stride"] or window, len(before))
    ceiling, counted = bool(given["ceil_mode"]), bool(given["count_include_pad"])
    sizes = zip(before, window, stride, padding, strict=True)
    if [(n + 2 * p - k) // s + 1 for n, k, s, p in sizes] == after:
        ceiling = False
    elif any(padding) and counted:
        raise LoweringError(
            f"{of_node(node)}: average pooling with ceil_mode that counts its padding has no runtime; "
            "set count_include_pad=False or pad before it"
        )
    else:
        counted = False
    node.args = (node.args[0], window, stride, padding, ceiling, counted)
    node.kwargs = {}


def _each(setting: Any, rank: int) -> list[int]:
    """One number for every dimension, from a number or a list of none, one or all."""
    numbers = list(setting) if isinstance(setting, (list, tuple)) else [setting]
    return numbers * rank if len(numbers) == 1 else numbers


def flatten_rows(module: GraphModule, node: Node, batch: tuple[int, ...]) -> None:
    """An integer linear layer over more dimensions reads and writes a matrix: runtimes have no other kernel.

    The dimensions `batch` of its output grow with the rows. Raises: LoweringError for more than one.
    """
    weight, shape = node.args[1], node.meta["val"].shape
    if len(shape) == 2 or not isinstance(weight, Node) or weight.target != DEQUANTIZE:
        return
    if len(batch) > 1:
        raise LoweringError(
            f"{of_node(node)}: one dimension of a quantized linear layer may grow with the batch, "
            f"{len(batch)} do; leave this layer in float"
        )
    last = node
    while last.target != QUANTIZE:
        following = only_user(last, {*FUSED_ACTIVATIONS, QUANTIZE})
        if following is None:
            break
        last = following
    with module.graph.inserting_before(node):
        width = module.get_buffer(str(weight.args[0].target)).shape[1]  # type: ignore[union-attr]
        node.update_arg(0, module.graph.call_function(aten.reshape.default, (node.args[0], [-1, width])))
    with module.graph.inserting_after(last):
        sizes = [-1 if i in batch else int(size) for i, size in enumerate(shape)]
        restored = module.graph.call_function(aten.reshape.default, (last, sizes))
    restored.meta = described(last)
    last.replace_all_uses_with(restored, delete_user_cb=lambda user: user is not restored)
