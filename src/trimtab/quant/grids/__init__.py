"""Grids: the sets of values that a tensor may take. One file each, one registry line each."""

from typing import Protocol

from torch import Tensor

from trimtab.registry import Registry


class Grid(Protocol):
    """`fit` parameters to rows of values, `encode` to integer codes, `decode` back."""

    bits: int
    signed: bool

    @property
    def low(self) -> int: ...
    @property
    def high(self) -> int: ...
    def fit(self, values: Tensor) -> tuple[Tensor, Tensor]: ...
    def fit_range(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]: ...
    def encode(self, values: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor: ...
    def decode(self, codes: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor: ...


GRIDS = Registry(
    "grid",
    {
        "affine": "trimtab.quant.grids.affine:Affine",
        "symmetric": "trimtab.quant.grids.symmetric:Symmetric",
    },
)
