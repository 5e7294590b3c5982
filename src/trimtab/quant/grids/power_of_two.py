"""Power-of-two grid: a weight is a sign and an exponent, so that a product is a shift."""

from dataclasses import dataclass

from trimtab.errors import ConfigError
from trimtab.quant.grids.levels import Levels, mirrored


@dataclass(frozen=True)
class PowerOfTwo(Levels):
    """`value = ± scale · 2^e` with e in 0 … 2^(bits−1) − 2, or zero.

    Source: Zhou et al. 2017, "Incremental Network Quantization: Towards Lossless CNNs with Low-Precision Weights",
    eq. 1; here a value goes to the nearest one.
    """

    bits: int = 4

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 5:
            raise ConfigError(
                f"grid 'power_of_two': bits must be from 2 to 5 (more only add values near zero), got {self.bits}"
            )

    @property
    def levels(self) -> tuple[int, ...]:
        """0, ±1, ±2, ±4, …"""
        return mirrored(tuple(2**e for e in range(2 ** (self.bits - 1) - 1)))
