"""From an ATen graph to an ONNX model, through torch's own exporter."""

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset21 as op
from torch import nn
from torch.utils import _pytree as pytree

from trimtab.errors import LoweringError
from trimtab.quant.ops import DEQUANTIZE, DYNAMIC_QUANTIZE, QUANTIZE
from trimtab.quant.recurrent import GRU, LSTM
from trimtab.tasks.switches import quiet
from trimtab.tasks.task import Inputs

OPSET = 21
_AXIS_0: Any = [0]
_AXIS_1: Any = [1]


def export_onnx(module: nn.Module, example: Inputs) -> ir.Model:
    """The ONNX model of `module`, dimension 0 of every input dynamic.

    Raises: LoweringError naming what has no translation.
    """
    args, kwargs = _call_arguments(example)
    batch = {0: torch.export.Dim.DYNAMIC}
    shapes = pytree.tree_map(lambda _: batch, kwargs if kwargs else args)
    with quiet():
        try:
            program = torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=False)
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                custom_translation_table=_TRANSLATIONS,
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


def _dynamic_quantize(x: Any) -> Any:
    return op.DynamicQuantizeLinear(x)


def _lstm(x: Any, h: Any, c: Any, w: Any, w_scale: Any, r: Any, r_scale: Any, bias: Any) -> Any:
    y, h, c = op.LSTM(x, _matrix(w, w_scale), _matrix(r, r_scale), _row(bias), None, h, c, hidden_size=r.shape[1])
    return op.Squeeze(y, _AXIS_1), h, c


def _gru(x: Any, h: Any, w: Any, w_scale: Any, r: Any, r_scale: Any, bias: Any) -> Any:
    matrices = (_matrix(w, w_scale), _matrix(r, r_scale))
    y, h = op.GRU(x, *matrices, _row(bias), None, h, hidden_size=r.shape[1], linear_before_reset=1)
    return op.Squeeze(y, _AXIS_1), h


def _matrix(codes: Any, scale: Any) -> Any:
    return _row(op.DequantizeLinear(codes, scale, axis=0))


def _row(value: Any) -> Any:
    return op.Unsqueeze(value, _AXIS_0)


_TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    QUANTIZE: _quantize,
    DEQUANTIZE: _dequantize,
    DYNAMIC_QUANTIZE: _dynamic_quantize,
    LSTM: _lstm,
    GRU: _gru,
}


def _call_arguments(example: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example, dict):
        return (), dict(example)
    return (tuple(example), {}) if isinstance(example, (tuple, list)) else ((example,), {})
