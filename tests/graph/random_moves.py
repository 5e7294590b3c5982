"""Moves of random networks: each takes a stream, an image [N, C, H, W] or a sequence [N, T, D], and makes the next.

A move makes its layers through `Build.layer`, which keeps them under the move's name, and draws all its choices from
`pick`, a number that the program says.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Build(Protocol):
    """What a move may use: the network's inputs and earlier streams, and a place for its layers."""

    past: list[Tensor]
    images: list[Tensor]
    tokens: Tensor

    def layer(self, name: str, make: Callable[[], nn.Module]) -> Any: ...
    def tensor(self, name: str, *shape: int, buffer: bool = False) -> Tensor: ...


Move = Callable[[Build, str, Tensor, int], Tensor]
IMAGE_MOVES: dict[str, Move] = {}
SEQUENCE_MOVES: dict[str, Move] = {}
ACTIVATIONS = (F.relu, torch.tanh, F.gelu, torch.sigmoid, F.hardswish, F.softplus, torch.exp, F.silu, torch.cos)


def image(move: Move) -> Move:
    IMAGE_MOVES[move.__name__] = move
    return move


def sequence(move: Move) -> Move:
    SEQUENCE_MOVES[move.__name__.removeprefix("seq_")] = move
    return move


def divisor(n: int, *wanted: int) -> int:
    return next(k for k in (*wanted, 1) if n % k == 0)


def alike(net: Build, x: Tensor, pick: int) -> Tensor:
    """An earlier stream with the same positions (images) or the same number of tokens (sequences)."""
    fits = [p for p in net.past if p.dim() == x.dim() and (p.shape[2:] if x.dim() == 4 else p.shape[1:2]) == _places(x)]
    return fits[pick % len(fits)]


def _places(x: Tensor) -> torch.Size:
    return x.shape[2:] if x.dim() == 4 else x.shape[1:2]
