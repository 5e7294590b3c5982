"""A folded graph rewritten into torch's `quantized_decomposed` operators, which other compilers recognize."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.ao.quantization.fx import _decomposed  # noqa: F401  registers the operators
from torch.fx import GraphModule, Node

from trimtab.errors import LoweringError
from trimtab.graph.copying import copy_module
from trimtab.graph.source import of_node

_OPERATORS = torch.ops.quantized_decomposed
ENCODE = _OPERATORS.quantize_per_tensor.default
DECODE = _OPERATORS.dequantize_per_tensor.default
DECODE_ROWS = _OPERATORS.dequantize_per_channel.default
PADS: set[object] = {torch.ops.aten.pad.default, torch.ops.aten.constant_pad_nd.default}

Rewrite = Callable[[GraphModule, Node], None]


def rewritten(folded: GraphModule, rewrites: Iterable[Rewrite]) -> GraphModule:
    """A copy that each of `rewrites` has gone over, node by node; what is not read any more is gone."""
    module = copy_module(folded)
    for rewrite in rewrites:
        for node in list(module.graph.nodes):
            rewrite(module, node)
        module.graph.eliminate_dead_code()
    module.graph.lint()
    module.delete_all_unused_submodules()
    module.recompile()
    return module


def grid_of(module: GraphModule, node: Node, kernels: str) -> tuple[Tensor, Tensor]:
    """Scales and zero points of a folded QUANTIZE or DEQUANTIZE; `kernels` is whose they must suit, for the error.

    Raises: LoweringError for codes of more than 8 bits, and for a scale for every group of inputs.
    """
    scales, zeros = (module.get_buffer(str(part.target)) for part in node.args[1:3])  # type: ignore[union-attr]
    if zeros.dtype not in {torch.int8, torch.uint8} or scales.dim() > 1:
        raise LoweringError(
            f"{of_node(node)}: {kernels} multiplies codes of 8 bits with one scale a tensor or output channel; "
            "store it so, or leave the layer in float"
        )
    return scales, zeros
