"""How a tensor is stored (Scheme) and which of its entries are zero (Sparsity)."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from trimtab.plan.record import Record

WHOLE = -1
"""In a granularity: the block spans the whole dimension."""

PER_TENSOR = (WHOLE, WHOLE)
PER_CHANNEL = (1, WHOLE)
PER_NETWORK: Literal["network"] = "network"


class Scheme(Record):
    """A grid of representable values, its width in bits, and the block of entries that share one scale.

    `granularity` is the block's shape over a weight seen as [out, in·kernel]; `WHOLE` (-1) spans a dimension:
    `(-1, -1)` is one scale a tensor, `(1, -1)` one an output channel, `(1, 32)` one for 32 consecutive inputs.
    "network" is one scale for the weights of all layers that a plan gives this scheme.
    `dynamic` (activations of linear and recurrent layers only): the range is that of each tensor at run time.
    """

    grid: str = "affine"
    bits: Annotated[int, Field(ge=1, le=16)] = 8
    granularity: tuple[int, int] | Literal["network"] = PER_TENSOR
    dynamic: bool = False

    @model_validator(mode="after")
    def _blocks_are_positive(self) -> "Scheme":
        if self.granularity != PER_NETWORK and any(side != WHOLE and side < 1 for side in self.granularity):
            raise ValueError(f"granularity sides are >= 1, or -1 for the whole dimension, got {self.granularity}")
        return self


class Weights(Record):
    """Single weights are zero. `fraction` removed, 0..1."""

    kind: Literal["weights"] = "weights"
    fraction: Annotated[float, Field(gt=0, lt=1)]


class NofM(Record):
    """Keep `kept` of every `of` consecutive weights along the input dimension."""

    kind: Literal["n_of_m"] = "n_of_m"
    kept: int
    of: int

    @model_validator(mode="after")
    def _some_but_not_all(self) -> "NofM":
        if not 0 < self.kept < self.of:
            raise ValueError(f"NofM needs 0 < kept < of, got kept={self.kept}, of={self.of}")
        return self


class Tiles(Record):
    """Whole tiles of `shape` (out × in) are zero. `fraction` of the tiles removed, 0..1."""

    kind: Literal["tiles"] = "tiles"
    shape: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    fraction: Annotated[float, Field(gt=0, lt=1)]


class Kernels(Record):
    """Whole kernels are zero: all that one output channel reads of one input channel. `fraction` removed, 0..1.

    Of a layer without a kernel (linear, recurrent) a kernel is a single weight.
    """

    kind: Literal["kernels"] = "kernels"
    fraction: Annotated[float, Field(gt=0, lt=1)]


Sparsity = Annotated[Weights | NofM | Tiles | Kernels, Field(discriminator="kind")]
