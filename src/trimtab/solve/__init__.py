"""Solvers of one layer: tensors in, tensors out."""

from trimtab.solve.adaround import adaround as adaround
from trimtab.solve.descent import best_scale as best_scale
from trimtab.solve.descent import best_scales as best_scales
from trimtab.solve.descent import descend as descend
from trimtab.solve.gptq import Nearest as Nearest
from trimtab.solve.gptq import gptq as gptq
from trimtab.solve.gptq import sparsegpt as sparsegpt
from trimtab.solve.least_squares import choose_damping as choose_damping
from trimtab.solve.least_squares import least_squares as least_squares
from trimtab.solve.least_squares import mean_squared_error as mean_squared_error
from trimtab.solve.least_squares import on_survivors as on_survivors
from trimtab.solve.least_squares import pulled as pulled
from trimtab.solve.moments import Gathering as Gathering
from trimtab.solve.moments import Moments as Moments
from trimtab.solve.obs import leaving as leaving
from trimtab.solve.obs import removals as removals
from trimtab.solve.obs import surgery as surgery
from trimtab.solve.patches import patches as patches
from trimtab.solve.pieces import Pieces as Pieces
from trimtab.solve.pieces import pieces_of as pieces_of
from trimtab.solve.rate import coded_bits as coded_bits
from trimtab.solve.rate import compensated_curvature as compensated_curvature
from trimtab.solve.rate import magnitude_bits as magnitude_bits
from trimtab.solve.swap import swap as swap
