"""What operators are to quantization: kernels that write codes, joins of several values, and mere moves of data."""

import torch
from torch.fx import Node

from trimtab.graph.layers import OPERATORS as LAYERS
from trimtab.graph.modes import MARK

aten = torch.ops.aten

_JOINS: dict[object, str] = {
    aten.add.Tensor: "add",
    aten.add_.Tensor: "add",
    aten.mul.Tensor: "multiplication",
    aten.mul_.Tensor: "multiplication",
    aten.cat.default: "concatenation",
    aten.avg_pool1d.default: "average_pool",
    aten.avg_pool2d.default: "average_pool",
    aten.mean.dim: "mean",
    aten.adaptive_avg_pool1d.default: "average_pool",
    aten.adaptive_avg_pool2d.default: "average_pool",
    aten.sigmoid.default: "sigmoid",
    aten.sigmoid_.default: "sigmoid",
    aten.silu.default: "silu",
    aten.silu_.default: "silu",
    aten.hardsigmoid.default: "hardsigmoid",
    aten.hardsigmoid_.default: "hardsigmoid",
    aten.hardswish.default: "hardswish",
    aten.hardswish_.default: "hardswish",
}
FLOAT_KERNELS: set[object] = {
    aten.conv_transpose1d.default,
    aten.conv_transpose2d.input,
    aten.conv_transpose3d.input,
}
"""Between integer kernels, what they write for a join is rounded, so that the join can run in integers."""
FUSED_ACTIVATIONS: set[object] = {aten.relu.default, aten.relu_.default, aten.hardtanh.default, aten.hardtanh_.default}
AVERAGE_POOLS: set[object] = {aten.avg_pool1d.default, aten.avg_pool2d.default}
ADAPTIVE_POOLS: set[object] = {aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default}
MOVES: set[object] = {
    aten.view.default,
    aten.reshape.default,
    aten.flatten.using_ints,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
    aten.permute.default,
    aten.transpose.int,
    aten.contiguous.default,
    aten.clone.default,
    aten.slice.Tensor,
    aten.select.int,
    aten.constant_pad_nd.default,
    aten.pad.default,
    aten.max_pool1d.default,
    aten.max_pool2d.default,
    aten.dropout.default,
    aten.dropout_.default,
}


def source(value: Node) -> Node:
    """The value that operators which only move data have carried here."""
    while value.target in MOVES and pads_with_zero(value):
        value = value.args[0]  # type: ignore[assignment]
    return value


def written_value(node: Node) -> Node:
    """Where a kernel's result is final: after the batch norm (of a layer) and the activation that only it feeds."""
    if node.target in FLOAT_KERNELS:
        node = only_user(node, {aten.batch_norm.default}) or node
    node = norm_of(node) or node
    return only_user(node, FUSED_ACTIVATIONS) or node


def norm_of(node: Node) -> Node | None:
    """The batch norm that folds into a layer: its only reader, over its output channels, with fixed statistics."""
    norm = only_user(node, {aten.batch_norm.default}) if node.target in LAYERS else None
    if norm is None or norm.args[3] is None or (norm.args[5] and MARK not in norm.meta):
        return None
    channels_are_last = LAYERS[node.target] == "linear"
    return None if channels_are_last and norm.meta["val"].dim() != 2 else norm


def only_user(node: Node, targets: set[object]) -> Node | None:
    """The reader of `node` if there is just one and it is one of these operators."""
    user = next(iter(node.users), None)
    return user if len(node.users) == 1 and user is not None and user.target in targets else None


def family_of(node: Node) -> str | None:
    """What a target calls the join that a node is; None for a node that is none."""
    family = _JOINS.get(node.target)
    if family in {"add", "multiplication"} and not (len(tensor_inputs(node)) == 2 and node.kwargs.get("alpha", 1) == 1):
        return None
    if family == "mean" and not averages_whole_map(node):
        return None
    return "mean" if family == "average_pool" and averages_whole_map(node) else family


def averages_whole_map(node: Node) -> bool:
    """Whether a pooling or mean node averages each [batch, channel] map to one value."""
    rank = node.args[0].meta["val"].dim()  # type: ignore[union-attr]
    if rank not in {3, 4}:
        return False
    if node.target == aten.mean.dim:
        dims: list[int] = list(node.args[1] or [])  # type: ignore[arg-type]
        return sorted(dim % rank for dim in dims) == list(range(2, rank))
    if node.target in ADAPTIVE_POOLS:
        return set(node.args[1]) == {1}  # type: ignore[arg-type]
    shape = [int(size) for size in node.args[0].meta["val"].shape]  # type: ignore[union-attr]
    padding = node.args[3] if len(node.args) > 3 else [0]
    plain = len(node.args) < 7 or node.args[6] is None
    return plain and list(node.args[1]) == shape[2:] and not any(padding)  # type: ignore[arg-type]


def pads_with_zero(node: Node) -> bool:
    """False for padding with anything but zeros; True for every operator that does not pad."""
    if node.target == aten.pad.default:
        mode = node.args[2] if len(node.args) > 2 else "constant"
        return mode == "constant" and not (node.args[3] if len(node.args) > 3 else 0)
    return node.target != aten.constant_pad_nd.default or not (node.args[2] if len(node.args) > 2 else 0)


def tensor_inputs(node: Node) -> list[Node]:
    first = node.args[0]
    values = list(first) if isinstance(first, (list, tuple)) else [*node.args[:2]]
    return [v for v in values if isinstance(v, Node) and isinstance(v.meta.get("val"), torch.Tensor)]
