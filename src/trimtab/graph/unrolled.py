"""Capture without unrolling: torch finds the shapes of a recurrent operator by tracing every step, for minutes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

aten = torch.ops.aten

UNROLLED = (aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input)
"""Operators whose shapes torch finds step by step."""


@contextmanager
def not_unrolled() -> Iterator[None]:
    """For a moment, recurrent operators on fake tensors give their shapes at once, whatever the number of steps."""
    saved = [dict(operator.py_kernels) for operator in UNROLLED]
    try:
        for operator in UNROLLED:
            operator.py_kernels.update(dict.fromkeys(operator.py_kernels, outputs))
            operator._dispatch_cache.clear()
        yield
    finally:
        for operator, kernels in zip(UNROLLED, saved, strict=True):
            operator.py_kernels.clear()
            operator.py_kernels.update(kernels)
            operator._dispatch_cache.clear()


def outputs(
    x: Tensor, hx: Tensor | Sequence[Tensor], params: Sequence[Tensor], *rest: bool | int | float
) -> tuple[Tensor, ...]:
    """Empty outputs [T, N, directions · R] and last states [calls, N, R]."""
    states = [hx] if isinstance(hx, Tensor) else list(hx)
    bidirectional = rest[4]
    width = states[0].shape[-1] * (1 + bool(bidirectional))
    return x.new_empty((*x.shape[:2], width)), *(state.new_empty(state.shape) for state in states)
