"""Numbers that index a dimension (a router's choice of experts): who hands them on, and who does not read them.

After a cut they count the kept positions, so whoever computes with them would compute something else: unless an
operator is listed here, or its rule says that it reads indices, the dimension is frozen.
"""

from typing import Any

import torch
from torch.fx import Node

aten = torch.ops.aten

MOVES = {
    aten._reshape_alias.default,
    aten._to_copy.default,
    aten._unsafe_view.default,
    aten.alias.default,
    aten.chunk.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.detach.default,
    aten.expand.default,
    aten.expand_as.default,
    aten.flatten.using_ints,
    aten.flip.default,
    aten.lift_fresh_copy.default,
    aten.movedim.int,
    aten.movedim.intlist,
    aten.narrow.default,
    aten.permute.default,
    aten.repeat.default,
    aten.repeat_interleave.self_int,
    aten.reshape.default,
    aten.reshape_as.default,
    aten.roll.default,
    aten.select.int,
    aten.slice.Tensor,
    aten.split.Tensor,
    aten.split.sizes,
    aten.split_with_sizes.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.swapaxes.default,
    aten.swapdims.default,
    aten.t.default,
    aten.to.device,
    aten.to.dtype,
    aten.to.dtype_layout,
    aten.to.other,
    aten.transpose.int,
    aten.type_as.default,
    aten.unbind.int,
    aten.unflatten.int,
    aten.unsqueeze.default,
    aten.view.default,
    aten.view_as.default,
}
"""Operators whose output holds numbers of their first argument, and nothing else; of other arguments only the shape."""

_ONLY_SHAPES = {
    aten.empty_like.default,
    aten.full_like.default,
    aten.new_full.default,
    aten.new_ones.default,
    aten.new_zeros.default,
    aten.ones_like.default,
    aten.sym_size.int,
    aten.zeros_like.default,
}


def ignores_numbers(operator: Any) -> bool:
    """Whether an operator reads no number of a tensor, or hands tensors on as they are (an item of a list)."""
    return operator in _ONLY_SHAPES or getattr(operator, "__name__", "") == "getitem"


def held_by(node: Node, n: int) -> bool:
    """Whether the dtype of a node's output tells the numbers below `n` apart."""
    value = node.meta["val"]
    dtype = (value[0] if isinstance(value, (list, tuple)) else value).dtype
    if dtype is torch.bool or dtype.is_complex:
        return False
    return bool(n <= 2 / torch.finfo(dtype).eps if dtype.is_floating_point else n - 1 <= torch.iinfo(dtype).max)
