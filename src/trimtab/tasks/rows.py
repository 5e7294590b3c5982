"""Rows of batches: a batch is a tensor, or a tuple, list or dict of batches, with the rows along dimension 0."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from trimtab.errors import TaskError


def tensors(batch: Any) -> list[Tensor]:
    """All tensors of a batch, in order. Raises: TaskError for a leaf that is not a tensor."""
    if isinstance(batch, Tensor):
        return [batch]
    if isinstance(batch, dict):
        return [leaf for part in batch.values() for leaf in tensors(part)]
    if isinstance(batch, (tuple, list)):
        return [leaf for part in batch for leaf in tensors(part)]
    raise TaskError(f"a batch holds tensors, or tuples, lists or dicts of them, got {type(batch).__name__}")


def count(batch: Any) -> int:
    """Number of rows. Raises: TaskError when there is no tensor, or tensors disagree on dimension 0."""
    sizes = {leaf.shape[0] if leaf.dim() else None for leaf in tensors(batch)}
    rows = sizes.pop() if len(sizes) == 1 else None
    if rows is None:
        raise TaskError(f"the tensors of a batch must have the same dimension 0, got {describe(batch)}")
    return rows


def take(batch: Any, index: Tensor) -> Any:
    """The rows at `index` (integers, with repeats if wanted), in the batch's own structure."""
    if isinstance(batch, Tensor):
        return batch[index]
    if isinstance(batch, dict):
        return {key: take(part, index) for key, part in batch.items()}
    parts = [take(part, index) for part in batch]
    return tuple(parts) if isinstance(batch, tuple) else parts


def concatenate(batches: Sequence[Any]) -> Any:
    """All rows of equally structured batches, one below the other. Raises: TaskError when they do not fit."""
    first = batches[0]
    if isinstance(first, dict):
        return {key: concatenate([batch[key] for batch in batches]) for key in first}
    if isinstance(first, (tuple, list)):
        parts = [concatenate(column) for column in zip(*batches, strict=True)]
        return tuple(parts) if isinstance(first, tuple) else parts
    if len({tuple(batch.shape[1:]) for batch in batches}) != 1:
        raise TaskError(
            f"batches must agree on every dimension but the first, got {describe(first)} and {describe(batches[-1])}"
        )
    return torch.cat(list(batches))


def batches_in(loader: Any) -> int:
    """Number of batches: its length, or counted where it has none."""
    return len(loader) if hasattr(loader, "__len__") else sum(1 for _ in loader)


def lay_out(inputs: Any, layout: torch.memory_format) -> Any:
    """Inputs, nested as they may be, with every 4-D floating-point tensor in `layout`."""
    return pytree.tree_map_only(Tensor, lambda x: x.contiguous(memory_format=layout) if is_image(x) else x, inputs)


def is_image(x: object) -> bool:
    """Whether a tensor has rows, channels, height and width."""
    return isinstance(x, Tensor) and x.dim() == 4 and x.is_floating_point()


def describe(batch: Any) -> str:
    """`float32[8, 3, 32, 32]`, or the structure of such, for messages."""
    if isinstance(batch, Tensor):
        return f"{str(batch.dtype).removeprefix('torch.')}{list(batch.shape)}"
    if isinstance(batch, dict):
        return "{" + ", ".join(f"{key}: {describe(part)}" for key, part in batch.items()) + "}"
    if isinstance(batch, (tuple, list)):
        return "(" + ", ".join(describe(part) for part in batch) + ")"
    return type(batch).__name__
