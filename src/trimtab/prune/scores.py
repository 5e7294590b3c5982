"""Scores: how much each unit of a channel group matters."""

from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.errors import NumericsError


@dataclass(frozen=True, kw_only=True)
class Scores:
    """`values`: [width] float64, >= 0; higher means keep. Raises: NumericsError when a score is not finite."""

    group: str
    values: Tensor

    def __post_init__(self) -> None:
        bad = (~torch.isfinite(self.values)).nonzero().flatten().tolist()
        if bad:
            raise NumericsError(
                f"{self.group}: the score of unit {bad[0]} is {self.values[bad[0]].item()}"
                f"{f' (and {len(bad) - 1} more)' if len(bad) > 1 else ''}; check the weights and the data"
            )
