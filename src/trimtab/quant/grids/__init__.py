"""Grids: the sets of values that a tensor may take. One file each, one registry line each."""

from trimtab.quant.grids.contract import Fit as Fit
from trimtab.quant.grids.contract import Grid as Grid
from trimtab.quant.grids.contract import UniformGrid as UniformGrid
from trimtab.registry import Registry

GRIDS = Registry(
    "grid",
    {
        "affine": "trimtab.quant.grids.affine:Affine",
        "symmetric": "trimtab.quant.grids.symmetric:Symmetric",
    },
)
