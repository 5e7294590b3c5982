"""Additive powers of two: sums of a few powers of two, dense near zero and still fine at the ends."""

from dataclasses import dataclass
from itertools import product

from trimtab.errors import ConfigError
from trimtab.quant.grids.levels import Levels, mirrored

_ROUNDS = 3  # a term of two bits is zero or one of three powers


@dataclass(frozen=True)
class AdditivePowerOfTwo(Levels):
    """`value = ± scale · (p_1 + … + p_n)`, where every term p_i is zero or one of three powers of two.

    Of the bits − 1 of a magnitude, every two are one term; of an odd number the last one is a term with one power.
    Source: Li et al. 2020, "Additive Powers-of-Two Quantization: An Efficient Non-uniform Discretization for Neural
    Networks", eq. 5 with k = 2; the term of one bit takes the exponent before the smallest ones, as in its code.
    """

    bits: int = 4

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ConfigError(f"grid 'additive_power_of_two': bits must be from 2 to 8, got {self.bits}")

    @property
    def levels(self) -> tuple[int, ...]:
        """All sums, with both signs."""
        magnitudes = {sum(chosen) for chosen in product(*self._terms())} - {0}
        return mirrored(tuple(sorted(magnitudes)))

    def _terms(self) -> list[list[int]]:
        """The terms' choices: powers are dealt out from the largest, one for each term in turn."""
        pairs, odd = divmod(self.bits - 1, 2)
        terms: list[list[int]] = [[0] for _ in range(pairs + odd)]
        order = [term for _ in range(_ROUNDS - 1) for term in range(pairs)]
        order += [pairs] * odd + list(range(pairs))
        for exponent, term in zip(reversed(range(len(order))), order, strict=True):
            terms[term].append(2**exponent)
        return terms
