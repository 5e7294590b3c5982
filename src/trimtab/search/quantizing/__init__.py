"""Quantization without training: in how many bits each layer is stored, as a plan."""

from trimtab.search.quantizing.planner import quantize as quantize
from trimtab.search.quantizing.sensitivities import SENSITIVITIES as SENSITIVITIES
