"""Binary grid: a sign, times a scale."""

from dataclasses import dataclass

from torch import Tensor

from trimtab.errors import ConfigError
from trimtab.quant.grids.contract import Fit
from trimtab.quant.grids.levels import Levels

_SMALLEST = 1e-12


@dataclass(frozen=True)
class Binary(Levels):
    """`value = scale · {−1, 1}` with scale = mean |w|, the one of least squared error. Zero is no value; it becomes 1.

    Source: Rastegari et al. 2016, "XNOR-Net: ImageNet Classification Using Binary Convolutional Neural Networks",
    eq. 6.
    """

    bits: int = 1
    zero = saturates = False

    def __post_init__(self) -> None:
        if self.bits != 1:
            raise ConfigError(f"grid 'binary': bits must be 1, got {self.bits}")

    @property
    def levels(self) -> tuple[int, ...]:
        """−1 and 1."""
        return -1, 1

    def fit(self, values: Tensor) -> Fit:
        """The mean magnitude of each row of `values` [rows, n]; a row of zeros stays nearly zero."""
        scale = values.abs().mean(1).clamp(min=_SMALLEST)
        return Fit(scale, scale.new_zeros(scale.shape))

    def encode(self, values: Tensor, fit: Fit) -> Tensor:
        """1 from zero upwards, else 0, in float."""
        return (values >= 0).to(values.dtype)
