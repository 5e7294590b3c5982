"""Quantization: grids, fake-quantization, where it is placed, calibration, folding, and the integer simulation."""

from trimtab.quant.activations import ActivationFakeQuantize as ActivationFakeQuantize
from trimtab.quant.calibration import calibrate as calibrate
from trimtab.quant.equalize import equalize as equalize
from trimtab.quant.fold import fold as fold
from trimtab.quant.fold import is_folded as is_folded
from trimtab.quant.grids import GRIDS as GRIDS
from trimtab.quant.integer import IntegerSimulation as IntegerSimulation
from trimtab.quant.placement import insert_fake_quantization as insert_fake_quantization
from trimtab.quant.weights import WeightFakeQuantize as WeightFakeQuantize
