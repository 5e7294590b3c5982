"""The weights of one layer on the grid that they are stored in, by the solver that a decision names."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from trimtab.errors import ConfigError
from trimtab.plan import PER_CHANNEL, PER_NETWORK
from trimtab.quant import WeightFakeQuantize
from trimtab.quant.grids import Fit
from trimtab.quant.grids.search import fit_weights
from trimtab.solve import (
    Moments,
    Nearest,
    Pieces,
    adaround,
    best_scale,
    best_scales,
    compensated_curvature,
    descend,
    gptq,
    magnitude_bits,
    mean_squared_error,
    sparsegpt,
    swap,
)

ROUNDS = 3
"""Of coordinate descent, each followed by a refit of the scales; of codes whose bits are counted anew."""

_STEPS = (0.8, 1.0, 1.25)
"""Tried by rate and distortion, in parts of the step that is best where codes are many."""

ALTERNATIONS, WORTH = 6, 1e-3
"""Of swaps and coordinate descent, at most; they end when the rounds' error falls by less than this share."""


@dataclass(frozen=True)
class Solved:
    """`weight`: what is to be stored, and `used`: what the layer then computes with. [groups, m, n] both."""

    weight: Tensor
    used: Tensor


def rounding_of(module: GraphModule, weight: Node) -> WeightFakeQuantize | None:
    """What rounds the weight that a layer reads."""
    if weight.op != "call_module":
        return None
    found: nn.Module = module.get_submodule(str(weight.target))
    return found if isinstance(found, WeightFakeQuantize) else None


def round_weight(
    rounding: WeightFakeQuantize,
    shape: torch.Size,
    weight: Tensor,
    moments: Moments,
    kept: Tensor | None,
    pieces: Pieces | None,
    solver: str,
) -> Solved:
    """`weight` [groups, m, n] on the grid of `rounding`, whose scales are fitted anew; zero outside of `kept`.

    With `pieces` single zeros may change places, as these allow, where the codes gain by it.
    """
    _fit(rounding, weight.reshape(shape))
    nearest = _Nearest(rounding, weight, kept)
    if solver in {"nearest", "least_squares"}:
        return Solved(weight, nearest(weight, _columns(weight)))
    if solver == "adaround":
        below, above = nearest.around(weight)
        rounded = adaround(weight, moments.gram, moments.cross, below, above)
        return Solved(rounded, rounded)
    rounded = gptq(weight, moments.gram, nearest)
    if solver == "gptq":
        return Solved(rounded, rounded)
    rounded = _descended(rounding, rounded, moments, kept)
    if pieces is not None and pieces.single and kept is not None:
        rounded = _swapped(rounding, rounded, moments, kept, pieces)
    return Solved(rounded, rounded)


def sweep(
    rounding: WeightFakeQuantize | None, shape: torch.Size, weight: Tensor, moments: Moments, pieces: Pieces
) -> Tensor:
    """`weight` [groups, m, n] thinned in one sweep over its columns; rounded in the same one where there is a grid."""
    order = pieces.columns.flatten()
    if rounding is not None:
        _fit(rounding, weight.reshape(shape))
    nearest = None if rounding is None else _Nearest(rounding, weight, None).reordered(order)
    gram = moments.gram[:, order][:, :, order]
    thinned = sparsegpt(weight[:, :, order], gram, pieces.removed / weight.numel(), pieces.quota, nearest)
    return torch.empty_like(thinned).index_copy_(2, order, thinned)


def _descended(rounding: WeightFakeQuantize, rounded: Tensor, moments: Moments, kept: Tensor | None) -> Tensor:
    """Codes by coordinate descent, scales refitted between."""
    gram, cross = moments.gram, moments.cross
    for _ in range(ROUNDS):
        rounded = descend(rounded, gram, cross, _Nearest(rounding, rounded, kept), sweeps=2)
        rounded = _refit(rounding, rounded, moments)
    return descend(rounded, gram, cross, _Nearest(rounding, rounded, kept))


def _swapped(rounding: WeightFakeQuantize, rounded: Tensor, moments: Moments, kept: Tensor, pieces: Pieces) -> Tensor:
    """Places and codes in turn, until the error stops falling."""
    gram, cross = moments.gram, moments.cross
    sharing = pieces.columns.view(-1, pieces.quota[1]) if pieces.quota else None
    error = float(mean_squared_error(gram, cross, rounded).sum())
    start = error
    for _ in range(ALTERNATIONS):
        rounded, kept = swap(rounded, gram, cross, _Nearest(rounding, rounded, None), kept, sharing)
        rounded = _descended(rounding, rounded, moments, kept)
        before, error = error, float(mean_squared_error(gram, cross, rounded).sum())
        if before - error <= WORTH * (start - error):
            break
    return rounded


@torch.no_grad()
def rate_distortion(
    rounding: WeightFakeQuantize, weight: Tensor, moments: Moments, gain: Tensor, price: float
) -> Solved:
    """Codes, zeros and scales for the least relative error + `price` · bits, `weight` [groups, m, n] to begin with.

    The error is that of the layer's output, as it counts behind batch norm (`gain` [groups, m]), over its energy; bits
    are those of an entropy coder. GPTQ and coordinate descent, which choose between the nearest code, the next one
    towards zero, and zero; several steps are tried about the one that is best where codes are many, with
    step²/12 · curvature for the error and one bit for each halving.
    Source: in the spirit of Wiedemann et al. 2020, "DeepCABAC: A Universal Compression Algorithm for Deep Neural
    Networks", section III-C, with the whole gram matrix in place of its diagonal.
    """
    gram, cross, squared = moments.gram, moments.cross, gain[..., None].square()
    energy = float((((weight @ gram) * weight).sum(-1) * gain.square()).sum()) or 1.0
    after, alone = (
        part * squared / energy for part in (compensated_curvature(gram), gram.diagonal(dim1=-2, dim2=-1)[:, None])
    )
    curvature = after.mean(2) if rounding.granularity == PER_CHANNEL else after.mean()
    steps = (6 * price / (math.log(2) * curvature.clamp(min=torch.finfo(after.dtype).tiny))).sqrt()
    best: tuple[float, Tensor, Tensor] | None = None
    for factor in _STEPS:
        rounding.scale.copy_((factor * steps).reshape(-1).expand_as(rounding.scale.flatten()).view_as(rounding.scale))
        codes = _Nearest(rounding, weight, None)
        rounded = codes(weight, _columns(weight))
        for _ in range(ROUNDS):
            rounded = gptq(weight, gram, _Priced(rounding, rounded, after, price))
            rounded = descend(rounded, gram, cross, _Priced(rounding, rounded, alone, price), sweeps=2)
        error = float((mean_squared_error(gram, cross, rounded) * gain.square()).sum()) / energy
        cost = error + price * float(_Priced(rounding, rounded, alone, 1.0).bits_of(rounded).sum())
        if best is None or cost < best[0]:
            best = cost, rounded, rounding.scale.clone()
    assert best is not None
    rounding.scale.copy_(best[2])
    return Solved(best[1], best[1])


@torch.no_grad()
def _fit(rounding: WeightFakeQuantize, weight: Tensor) -> None:
    """Scales (and table) for this weight; a scale of the whole network stays, others round with it too."""
    if rounding.granularity == PER_NETWORK:
        return
    fit = fit_weights(rounding.grid, rounding.rows(weight.to(rounding.scale)))
    rounding.scale.copy_(fit.scale.view_as(rounding.scale))
    rounding.zero_point.copy_(fit.zero_point.view_as(rounding.zero_point))
    if fit.table is not None and rounding.table is not None:
        rounding.table.copy_(fit.table / rounding.grid.high)


@torch.no_grad()
def _refit(rounding: WeightFakeQuantize, rounded: Tensor, moments: Moments) -> Tensor:
    """The scales of least error for the codes that there are; returns the values."""
    if rounding.granularity == PER_NETWORK:
        return rounded
    if rounding.granularity != PER_CHANNEL and rounding.group is None:
        factor = best_scale(rounded, moments.gram, moments.cross)
        rounding.scale.mul_(factor.to(rounding.scale))
        return rounded * factor
    block = rounding.group or rounded.shape[2]
    factors = best_scales(rounded, moments.gram, moments.cross, block)
    rounding.scale.mul_(factors.reshape(rounding.scale.shape).to(rounding.scale))
    return rounded * factors.repeat_interleave(block, dim=2)


def _columns(weight: Tensor) -> Tensor:
    """All columns, as a `Nearest` is asked for them."""
    return torch.arange(weight.shape[2]).expand(len(weight), 1, -1)


class _Nearest:
    """The nearest values of a weight's grid for some of its columns; zero where nothing is kept."""

    def __init__(self, rounding: WeightFakeQuantize, weight: Tensor, kept: Tensor | None) -> None:
        self.grid, self.kept = rounding.grid, kept
        fit = rounding.fit()
        self.table = fit.table if fit.table is None else fit.table.cpu().double()
        each = rounding.group or (weight.shape[2] if rounding.granularity == PER_CHANNEL else weight.numel())
        self.scale, self.zero_point = (
            part.cpu().double().repeat_interleave(each).reshape(weight.shape) for part in (fit.scale, fit.zero_point)
        )

    def __call__(self, values: Tensor, columns: Tensor) -> Tensor:
        at = columns.expand_as(values)
        fit = Fit(self.scale.gather(2, at).flatten(), self.zero_point.gather(2, at).flatten(), self.table)
        decoded = self.grid.decode(self.grid.encode(values.reshape(-1, 1), fit), fit).reshape(values.shape)
        return decoded if self.kept is None else decoded * self.kept.gather(2, at)

    def reordered(self, order: Tensor) -> Nearest:
        """The same for a weight whose columns were taken in this order."""
        return lambda values, columns: self(values, order[columns])

    def around(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The two values of the grid that each entry lies between; twice the nearest where it lies outside.

        Raises: ConfigError for a grid whose values are not evenly spaced.
        """
        if not self.grid.uniform:
            raise ConfigError(
                "solver 'adaround': the grid's values must be evenly spaced; choose 'coordinate_descent' for this grid"
            )
        columns = _columns(values)
        first = self(values, columns)
        other = self(first + self.scale * (values - first).sign(), columns)
        return torch.minimum(first, other), torch.maximum(first, other)


class _Priced(_Nearest):
    """Of the nearest value, the next one towards zero, and zero: the one of least `curvature` · error² + price · bits.

    Bits are counted for the codes of `weight`; `curvature` [groups, m or 1, n].
    """

    def __init__(self, rounding: WeightFakeQuantize, weight: Tensor, curvature: Tensor, price: float) -> None:
        super().__init__(rounding, weight, None)
        self.curvature = curvature.expand_as(weight)
        self.price = price * magnitude_bits((weight / self.scale).round(), rounding.grid.high)

    def bits_of(self, weight: Tensor) -> Tensor:
        """What every entry costs, in units of the price."""
        return self.price[(weight / self.scale).round().abs().long()]

    def __call__(self, values: Tensor, columns: Tensor) -> Tensor:
        at = columns.expand_as(values)
        near, scale = super().__call__(values, columns), self.scale.gather(2, at)
        tried = torch.stack([near, near - near.sign() * scale, torch.zeros_like(near)])
        bits = self.price[(tried / scale).round().abs().long()]
        cost = self.curvature.gather(2, at) * (values - tried).square() + bits
        return tried.gather(0, cost.argmin(0, keepdim=True))[0]
