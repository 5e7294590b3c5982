"""From an ATen graph to an ONNX model, through torch's own exporter."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset21 as op
from torch import nn
from torch.utils import _pytree as pytree

from trimtab.errors import LoweringError
from trimtab.quant.ops import DEQUANTIZE, QUANTIZE
from trimtab.tasks.task import Inputs

OPSET = 21


def export_onnx(module: nn.Module, example: Inputs) -> ir.Model:
    """The ONNX model of `module`, dimension 0 of every input dynamic.

    Raises: LoweringError naming what has no translation.
    """
    args, kwargs = _call_arguments(example)
    batch = {0: torch.export.Dim.DYNAMIC}
    shapes = pytree.tree_map(lambda _: batch, kwargs if kwargs else args)
    with _quiet():
        try:
            program = torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=False)
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                custom_translation_table={QUANTIZE: _quantize, DEQUANTIZE: _dequantize},
                verbose=False,
            )
        except (torch.onnx.OnnxExporterError, RuntimeError, ValueError) as error:
            reason = str(error.__cause__ or error).strip().splitlines()[0]
            raise LoweringError(f"ONNX export failed: {reason}; leave that operator out or report it") from error
    assert exported is not None
    return exported.model


def _quantize(x: Any, scale: Any, zero_point: Any) -> Any:
    return op.QuantizeLinear(x, scale, zero_point)


def _dequantize(codes: Any, scale: Any, zero_point: Any) -> Any:
    return op.DequantizeLinear(codes, scale, zero_point, axis=0)


def _call_arguments(example: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example, dict):
        return (), dict(example)
    return (tuple(example), {}) if isinstance(example, (tuple, list)) else ((example,), {})


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on packages that are not needed here."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)
