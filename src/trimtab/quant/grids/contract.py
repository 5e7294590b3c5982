"""What a grid is: a set of integers times a scale. One file each, one registry line each."""

from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor


class Fit(NamedTuple):
    """What turns integers into values: `scale · (integer − zero_point)`, for each row.

    `scale` [rows] > 0; `zero_point` [rows], integers. `table` [codes]: the integer of every code, ascending, where the
    data decides which integers there are (a codebook); else None.
    """

    scale: Tensor
    zero_point: Tensor
    table: Tensor | None = None


class Grid(Protocol):
    """`fit` parameters to rows of values [rows, n], `encode` to the codes of the nearest values (in float), and back.

    `low` and `high` are the least and the largest integer; a kernel that multiplies integers has to hold them.
    `signed`: integers lie on both sides of zero, and zero points are 0. `zero`: zero is one of the values. `uniform`:
    every integer from `low` to `high` is there. `saturates`: in training, no gradient passes to what lies outside.
    """

    @property
    def bits(self) -> int: ...
    @property
    def signed(self) -> bool: ...
    @property
    def zero(self) -> bool: ...
    @property
    def uniform(self) -> bool: ...
    @property
    def saturates(self) -> bool: ...
    @property
    def low(self) -> int: ...
    @property
    def high(self) -> int: ...
    def fit(self, values: Tensor) -> Fit: ...
    def encode(self, values: Tensor, fit: Fit) -> Tensor: ...
    def integers(self, codes: Tensor, fit: Fit) -> Tensor: ...
    def decode(self, codes: Tensor, fit: Fit) -> Tensor: ...


class UniformGrid(Grid, Protocol):
    """Evenly spaced integers, low … high without a gap: a range of values is enough to fit it."""

    def fit_range(self, low: Tensor, high: Tensor) -> Fit: ...


@runtime_checkable
class TrainedGrid(Grid, Protocol):
    """A grid with a table that can be trained."""

    def tied(self, table: Tensor) -> Tensor:
        """The nearest table [codes] that the grid may have, ascending, not yet rounded; differentiable."""
        ...
