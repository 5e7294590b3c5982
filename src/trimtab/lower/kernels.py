"""What a runtime really executes: integer kernels, float kernels, and what fell back."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """Operator type → count, and one line for each operator that computes in float. Moves of data are not counted."""

    integer: dict[str, int]
    floating: dict[str, int]
    fallbacks: tuple[str, ...]
