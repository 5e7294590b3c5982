"""Grids: the sets of values that a tensor may take. One file each, one registry line each."""

from trimtab.quant.grids.contract import Fit as Fit
from trimtab.quant.grids.contract import Grid as Grid
from trimtab.quant.grids.contract import TrainedGrid as TrainedGrid
from trimtab.quant.grids.contract import UniformGrid as UniformGrid
from trimtab.registry import Registry

GRIDS = Registry(
    "grid",
    {
        "additive_power_of_two": "trimtab.quant.grids.additive_power_of_two:AdditivePowerOfTwo",
        "affine": "trimtab.quant.grids.affine:Affine",
        "binary": "trimtab.quant.grids.binary:Binary",
        "codebook": "trimtab.quant.grids.codebook:Codebook",
        "power_of_two": "trimtab.quant.grids.power_of_two:PowerOfTwo",
        "sign_magnitude": "trimtab.quant.grids.sign_magnitude:SignMagnitude",
        "symmetric": "trimtab.quant.grids.symmetric:Symmetric",
        "ternary": "trimtab.quant.grids.ternary:Ternary",
        "trained_ternary": "trimtab.quant.grids.trained_ternary:TrainedTernary",
    },
)
