"""What a grid is: a set of integers times a scale. One file each, one registry line each."""

from typing import NamedTuple, Protocol

from torch import Tensor


class Fit(NamedTuple):
    """What turns integers into values: `scale · (integer − zero_point)`, for each row.

    `scale` [rows] > 0; `zero_point` [rows], integers. `table`: the integer of every code, [codes] for all rows or
    [rows, codes], where the data decides which integers there are (a codebook); else None.
    """

    scale: Tensor
    zero_point: Tensor
    table: Tensor | None = None


class Grid(Protocol):
    """`fit` parameters to rows of values [rows, n], `encode` to integer codes (in float), `decode` back.

    `low` and `high` are the least and the largest integer; a kernel that multiplies integers has to hold them.
    """

    bits: int
    signed: bool

    @property
    def low(self) -> int: ...
    @property
    def high(self) -> int: ...
    def fit(self, values: Tensor) -> Fit: ...
    def encode(self, values: Tensor, fit: Fit) -> Tensor: ...
    def integers(self, codes: Tensor, fit: Fit) -> Tensor: ...
    def decode(self, codes: Tensor, fit: Fit) -> Tensor: ...


class UniformGrid(Grid, Protocol):
    """Evenly spaced integers, low … high without a gap: a code is its integer, and a range of values is enough."""

    def fit_range(self, low: Tensor, high: Tensor) -> Fit: ...
