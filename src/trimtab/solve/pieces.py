"""What leaves a layer together, as bands of rows and blocks of columns of the weight as a matrix."""

from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.errors import ConfigError
from trimtab.plan import Kernels, NofM, Sparsity, Tiles


@dataclass(frozen=True)
class Pieces:
    """Pieces of a weight [groups, m, n]: a band is `rows` rows, a block is one row of `columns` [blocks, size].

    Of all pieces `removed` leave; with `quota` (kept, of) instead so many of every `of` consecutive blocks stay.
    """

    rows: int
    columns: Tensor
    removed: int
    quota: tuple[int, int] | None = None

    @property
    def single(self) -> bool:
        """Whether every piece is one weight."""
        return self.rows == 1 and self.columns.shape[1] == 1


def pieces_of(where: str, shape: torch.Size, groups: int, sparsity: Sparsity) -> Pieces:
    """Those of a weight of this `shape` [out, in, *kernel], in the layout of `prune.granularity`.

    Raises: ConfigError for tiles of which one would lie across two groups of the convolution.
    """
    kernel = shape[2:].numel()
    at = torch.arange(shape[1:].numel()).view(shape[1], kernel)  # in × kernel, as a row holds them
    match sparsity:
        case NofM(kept=kept, of=of):
            columns = at.view(-1, of, kernel).mT.reshape(-1, 1)
            return Pieces(rows=1, columns=columns, removed=shape.numel() // of * (of - kept), quota=(kept, of))
        case Tiles(shape=(rows, size), fraction=fraction):
            if (shape[0] // groups) % rows:
                raise ConfigError(
                    f"{where}: a tile of {rows} rows lies across the convolution's groups of {shape[0] // groups}; "
                    "choose fewer rows, or a solver that leaves the criterion's zeros where they are"
                )
            columns = at.view(-1, size, kernel).mT.reshape(-1, size)
            number = shape[0] // rows * len(columns)
        case Kernels(fraction=fraction):
            rows, columns, number = 1, at, shape[0] * shape[1]
        case _:
            rows, columns, number, fraction = 1, at.view(-1, 1), shape.numel(), sparsity.fraction
    return Pieces(rows=rows, columns=columns, removed=round(fraction * number))
