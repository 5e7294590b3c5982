"""Which schemes of weights a kernel for another scheme executes: those whose integers it holds."""

from trimtab.plan import PER_CHANNEL, PER_NETWORK, PER_TENSOR, Scheme
from trimtab.quant.grids import GRIDS, Grid

_COARSER = (PER_TENSOR, PER_NETWORK)


def reach(grid: Grid) -> int:
    """The largest magnitude of integer − zero point."""
    return max(-grid.low, grid.high) if grid.signed else grid.high - grid.low


def executes(kernel: Scheme, weight: Scheme) -> bool:
    """Whether a kernel that was built for weights of the scheme `kernel` runs weights of the scheme `weight`.

    Its integers must hold theirs. A kernel with a scale for every output channel takes one for the tensor or the
    network too; a kernel with a scale for a group of inputs takes groups of that size only.
    Raises: ConfigError for a grid or a number of bits that does not exist.
    """
    coarser = kernel.granularity == PER_CHANNEL and weight.granularity in _COARSER
    fits = reach(grid_of(weight)) <= reach(grid_of(kernel))
    return fits and (coarser or weight.granularity == kernel.granularity)


def executes_activation(kernel: Scheme, activation: Scheme) -> bool:
    """Whether a kernel that reads activations of the scheme `kernel` reads those of the scheme `activation`.

    It must be evenly spaced with integers that the kernel's type holds: the same grid with at most as many bits, and
    the same way of finding the range.
    """
    same = activation.model_copy(update={"bits": kernel.bits})
    return same == kernel and activation.bits <= kernel.bits and grid_of(activation).uniform


def grid_of(scheme: Scheme) -> Grid:
    """The grid that a scheme names."""
    grid: Grid = GRIDS.load(scheme.grid)(scheme.bits)
    return grid
