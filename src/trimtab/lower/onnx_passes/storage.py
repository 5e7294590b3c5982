"""Weights in as few bits as their integers need. Runtimes undo it when they load, so that the kernels see int8.

Integers from −8 to 7 are stored as INT4. Any other weight of at most 16, 4 or 2 different integers is stored as codes
of 4, 2 or 1 bits, packed four bits at a time, that pick rows of a table.
"""

from collections.abc import Iterator

import ml_dtypes
import numpy as np
import onnx_ir as ir

from trimtab.lower.onnx_passes.graph import constant, numbers

_WEIGHTS = {"DequantizeLinear": (0,), "MatMulInteger": (1,), "Gather": (0,), "DynamicQuantizeLSTM": (1, 2)}
"""Operators that read weights, and the inputs that are."""

_FEWEST = 64
"""Integers in a weight; of less the nodes that unpack take more than what they save."""


def narrow_weights(graph: ir.Graph) -> None:
    """Store every int8 weight in 4, 2 or 1 bits where its integers allow it."""
    reads = [(node, node.inputs[i]) for node in graph for i in _WEIGHTS.get(node.op_type, ())]
    for node, codes in reads:
        array = numbers(codes) if codes is not None and codes.is_initializer() else None
        if codes is None or array is None or array.dtype != np.int8 or array.size < _FEWEST:
            continue
        name = str(codes.name)
        unpack = list(_narrow(graph, name, array))
        if unpack:
            graph.insert_before(node, unpack)
            ir.convenience.replace_all_uses_with(codes, unpack[-1].outputs[0])
            del graph.initializers[name]
            unpack[-1].outputs[0].name = name


def _narrow(graph: ir.Graph, name: str, integers: np.ndarray) -> Iterator[ir.Node]:
    """Nodes that give `integers` from a narrower constant; none where nothing narrower holds them."""
    levels, codes = np.unique(integers, return_inverse=True)
    width = next((bits for bits in (1, 2) if len(levels) <= 2**bits and integers.size * bits % 4 == 0), 4)
    if width == 4 and levels[0] >= -8 and levels[-1] <= 7:
        stored = constant(graph, f"{name}.int4", integers.astype(ml_dtypes.int4))
        yield ir.node("Cast", [stored], attributes={"to": ir.DataType.INT8}, num_outputs=1)
    elif len(levels) <= 16:
        yield from _from_table(graph, name, levels, codes.reshape(integers.shape), width)


def _from_table(graph: ir.Graph, name: str, levels: np.ndarray, codes: np.ndarray, width: int) -> Iterator[ir.Node]:
    """Row i of the table is what the four bits of i stand for, the lowest first."""
    packed = (codes.reshape(-1, 4 // width) << np.arange(0, 4, width)).sum(1)
    fields = np.arange(16)[:, None] >> np.arange(0, 4, width) & (2**width - 1)
    table = levels[np.minimum(fields, len(levels) - 1)]
    stored = constant(graph, f"{name}.packed", packed.astype(ml_dtypes.uint4))
    indices = ir.node("Cast", [stored], attributes={"to": ir.DataType.INT32}, num_outputs=1)
    rows = ir.node("Gather", [constant(graph, f"{name}.table", table), indices.outputs[0]], num_outputs=1)
    shape = np.array(codes.shape, np.int64)
    yield from (indices, rows)
    yield ir.node("Reshape", [rows.outputs[0], constant(graph, f"{name}.shape", shape)], num_outputs=1)
