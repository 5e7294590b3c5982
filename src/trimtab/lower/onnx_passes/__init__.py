"""Rewrites of an exported ONNX graph: the runtime fuses it into integer kernels, and the file holds nothing idle.

Each pass changes the model in place and keeps what it computes.
"""

import onnx_ir as ir

from trimtab.lower.onnx_passes.biases import keep_float_layers as keep_float_layers
from trimtab.lower.onnx_passes.biases import linear_bias_as_integers as linear_bias_as_integers
from trimtab.lower.onnx_passes.dynamic import dynamic_linear as dynamic_linear
from trimtab.lower.onnx_passes.embeddings import embedding_of_codes as embedding_of_codes
from trimtab.lower.onnx_passes.moves import keep_requantizations as keep_requantizations
from trimtab.lower.onnx_passes.moves import mean_as_global_pool as mean_as_global_pool
from trimtab.lower.onnx_passes.moves import move_codes as move_codes
from trimtab.lower.onnx_passes.recurrent import integer_recurrent as integer_recurrent
from trimtab.lower.onnx_passes.shorten import remove_unused as remove_unused
from trimtab.lower.onnx_passes.shorten import shorten as shorten
from trimtab.lower.onnx_passes.storage import narrow_weights as narrow_weights


def integer_passes(model: ir.Model) -> None:
    """All passes, in the order that they need."""
    mean_as_global_pool(model.graph)
    move_codes(model.graph)
    keep_requantizations(model.graph)
    dynamic_linear(model.graph)
    integer_recurrent(model)
    embedding_of_codes(model.graph)
    linear_bias_as_integers(model.graph)
    keep_float_layers(model.graph)
    narrow_weights(model.graph)
    remove_unused(model.graph)
