"""From the trained simulation to what a runtime executes: batch norm folded, weights as integer codes, rounded biases.

The folded graph has `trimtab.quantize` / `trimtab.dequantize` where fake-quantization was. Executing it in float,
executing it in integers (`integer.py`) and lowering it (`lower/`) are three readings of the same graph.
"""

import math
from operator import getitem
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from trimtab.errors import LoweringError
from trimtab.graph.analysis import owner_of
from trimtab.graph.copying import copy_module, described
from trimtab.graph.layers import OPERATORS as LAYERS
from trimtab.graph.propagate import batch_dimensions
from trimtab.quant.activations import ActivationFakeQuantize
from trimtab.quant.canonical import canonical, flatten_rows
from trimtab.quant.dynamic import DynamicFakeQuantize
from trimtab.quant.grids import Fit
from trimtab.quant.grids.kernels import reach
from trimtab.quant.operators import FUSED_ACTIVATIONS, norm_of, source
from trimtab.quant.ops import DEQUANTIZE, DYNAMIC_QUANTIZE, QUANTIZE
from trimtab.quant.recurrent import integer_recurrent
from trimtab.quant.signs import SIGN_STEP
from trimtab.quant.stored import WeightRead, weight_reads
from trimtab.quant.weights import WeightFakeQuantize

aten = torch.ops.aten

_LARGEST_BIAS_CODE = 2.0**30
_SMALLEST_STEP = 1e-30  # of the accumulator: well inside float32


def fold(module: GraphModule) -> GraphModule:
    """A folded copy of a fake-quantized graph in eval mode, on the CPU. Raises: NumericsError for an unknown range.

    One that was folded before stays as it is.
    """
    if is_folded(module):
        return copy_module(module).cpu()
    folded = copy_module(module, sharing=(p for p in module.parameters() if p.device.type == "cpu")).cpu()
    graph = folded.graph
    batch = batch_dimensions(folded)
    _erase_dead(folded)
    canonical(folded)
    _erase_dead(folded)
    for node in list(graph.nodes):
        if node.op == "call_module" and isinstance(folded.get_submodule(node.target), ActivationFakeQuantize):
            _fold_activation(folded, node)
        elif node.op == "call_module" and isinstance(folded.get_submodule(node.target), DynamicFakeQuantize):
            _fold_dynamic(folded, node)
    for node in list(graph.nodes):
        if node.target in LAYERS:
            _fold_layer(folded, node)
    for read in list(weight_reads(folded)):
        if read.reader.target not in LAYERS:
            _fold_other(folded, read)
    integer_recurrent(folded)
    for node in list(graph.nodes):
        if node.target == aten.linear.default:
            flatten_rows(folded, node, batch[node])
    _erase_dead(folded)
    return folded


def is_folded(module: GraphModule) -> bool:
    """Whether a graph has codes where it had fake-quantization."""
    return any(node.target in {QUANTIZE, DEQUANTIZE, DYNAMIC_QUANTIZE} for node in module.graph.nodes)


def _fold_activation(module: GraphModule, node: Node) -> None:
    """Fake-quantization becomes quantize → dequantize, and a ReLU or hardtanh before it a clamp of the codes."""
    site = module.get_submodule(str(node.target))
    assert isinstance(site, ActivationFakeQuantize)
    (value,) = node.all_input_nodes
    step = site.step().detach()
    low, high = site.grid.low, site.grid.high
    if value.target in FUSED_ACTIVATIONS and len(value.users) == 1:
        limits = torch.tensor([_limits(value)])
        low, high = (int(code) for code in site.grid.encode(limits, Fit(step, site.zero_point))[0])
        value = value.all_input_nodes[0]
    zero_point = site.zero_point.detach().squeeze().to(torch.int8 if site.grid.signed else torch.uint8)
    limits_of_type = torch.iinfo(zero_point.dtype)
    with module.graph.inserting_before(node):
        scale = _constant(module, f"{node.target}.scale_value", step.squeeze().clone())
        zero = _constant(module, f"{node.target}.zero_value", zero_point)
        written = scale
        if not torch.equal(site.written_step(), step):
            written = _constant(module, f"{node.target}.written_scale_value", site.written_step().squeeze().clone())
        codes = [module.graph.call_function(QUANTIZE, (value, written, zero))]
        if (low, high) != (limits_of_type.min, limits_of_type.max):
            codes.append(module.graph.call_function(aten.clamp.default, (codes[0], low, high)))
        decoded = module.graph.call_function(DEQUANTIZE, (codes[-1], scale, zero))
    for new in (*codes, decoded):
        new.meta = described(node)
    node.replace_all_uses_with(decoded)
    module.graph.erase_node(node)


def _fold_dynamic(module: GraphModule, node: Node) -> None:
    """Rounding to a range found at run time becomes an operator that gives codes, scale and zero point."""
    (value,) = node.all_input_nodes
    with module.graph.inserting_before(node):
        found = module.graph.call_function(DYNAMIC_QUANTIZE, (value,))
        parts = [module.graph.call_function(getitem, (found, i)) for i in range(3)]
        decoded = module.graph.call_function(DEQUANTIZE, tuple(parts))
    decoded.meta = described(node)
    node.replace_all_uses_with(decoded)
    module.graph.erase_node(node)


def _limits(activation: Node) -> tuple[float, float]:
    """What a ReLU or hardtanh clamps to."""
    if activation.target in {aten.relu.default, aten.relu_.default}:
        return 0.0, math.inf
    limits: list[Any] = [*activation.args[1:], -1.0, 1.0]
    return float(limits[0]), float(limits[1] if len(activation.args) > 2 else 1.0)


def _fold_layer(module: GraphModule, node: Node) -> None:
    """Fold the batch norm that only this layer feeds; store weight codes and a bias on the accumulator's grid."""
    rounding, parameter = _weight_source(module, node.args[1])
    name = str(parameter.target).removesuffix(".weight")
    weight = module.get_parameter(str(parameter.target)).detach()
    bias = (
        _values(module, node.args[2]) if len(node.args) > 2 and node.args[2] is not None else torch.zeros(len(weight))
    )
    norm = norm_of(node)
    gain, shift = torch.ones(len(weight), dtype=torch.float64), bias.double()
    if norm is not None:
        gain, shift = _affine_of_norm(module, norm, shift)
        norm.replace_all_uses_with(node)
    column = (-1,) + (1,) * (weight.dim() - 1)
    unique = f"folded.{node.name}"
    with module.graph.inserting_before(node):
        if rounding is None:
            new_weight = _constant(module, f"{unique}.weight", (weight.double() * gain.view(column)).float())
        else:
            codes, scale = folded_integers(rounding, weight.float(), gain)
            kind = _integer_type(rounding, name)
            if kind == torch.int8 and scale.dim() == 1:
                x_scale = _input_scale(module, node.args[0])
                factor = 1
                if _writes_signs(module, node):
                    codes, scale, factor = _in_larger_integers(codes, scale)
                codes, scale, shift = _fit_accumulator(codes, scale, shift, x_scale, factor)
            new_weight = module.graph.call_function(
                DEQUANTIZE,
                (
                    _constant(module, f"{unique}.codes", codes.to(kind)),
                    _constant(module, f"{unique}.scale", scale.clamp(min=_SMALLEST_STEP).float()),
                    _constant(module, f"{unique}.zero", torch.zeros(scale.shape, dtype=kind)),
                ),
            )
            if codes.shape != weight.shape:
                new_weight = module.graph.call_function(aten.reshape.default, (new_weight, list(weight.shape)))
        new_bias = _constant(module, f"{unique}.bias", shift.float())
    node.args = (node.args[0], new_weight, new_bias, *node.args[3:])
    node.meta["layer"] = name


def _fold_other(module: GraphModule, read: WeightRead) -> None:
    """A rounded table or recurrent matrix becomes integers with one scale a row."""
    rounding, parameter = _weight_source(module, read.weight)
    read.reader.meta["layer"] = read.name
    if rounding is None:
        return
    weight = module.get_parameter(str(parameter.target)).detach().float()
    integers, scale = folded_integers(rounding, weight, torch.ones(len(weight), dtype=torch.float64))
    kind = _integer_type(rounding, read.name)
    unique = f"folded.{read.weight.name}"
    with module.graph.inserting_before(read.reader):
        constants = (
            _constant(module, f"{unique}.codes", integers.to(kind)),
            _constant(module, f"{unique}.scale", scale.clamp(min=_SMALLEST_STEP).float()),
            _constant(module, f"{unique}.zero", torch.zeros(scale.shape, dtype=kind)),
        )
        decoded = module.graph.call_function(DEQUANTIZE, constants)
    decoded.meta = described(read.weight)
    read.reader.replace_input_with(read.weight, decoded)


def folded_integers(rounding: WeightFakeQuantize, weight: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
    """Integers, and scales in float64, of a rounded weight whose output channels are multiplied by `gain`: exact.

    Integers are in the weight's shape and scales [out]; for groups of inputs both are matrices, [out, groups] scales.
    """
    sign = torch.where(gain < 0, -1.0, 1.0).float()
    integers = rounding.integers(weight).flatten(1).mul_(sign[:, None])
    scale = rounding.step().detach().double().expand(len(weight), *rounding.scale.shape[1:])
    if scale.dim() == 2:
        return integers, scale * gain.abs()[:, None]
    return integers.view_as(weight), scale * gain.abs()


def _writes_signs(module: GraphModule, node: Node) -> bool:
    """Whether only the sign of a layer's result is kept."""
    steps = [_values(module, user.args[1]) for user in node.users if user.target == QUANTIZE]
    return any(float(step) == SIGN_STEP for step in steps)


def _in_larger_integers(codes: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, int]:
    """The same weights, times a factor, with a bias that is rounded to finer steps: of 1-bit codes it would turn signs.

    Up to 64: two products with 8-bit codes then still fit into 16 bits, as some processors add them.
    """
    factor = max(1, 64 // max(1, int(codes.abs().max())))
    return codes * factor, scale / factor, factor


def _integer_type(rounding: WeightFakeQuantize, layer: str) -> torch.dtype:
    """The narrowest type that holds all integers of a grid and their negatives. Raises: LoweringError."""
    largest = reach(rounding.grid)
    for kind in (torch.int8, torch.int16):
        if largest <= torch.iinfo(kind).max:
            return kind
    raise LoweringError(
        f"{layer}: weights are stored in 16 bits at most, got integers up to {largest}; take a grid with fewer bits"
    )


def _fit_accumulator(
    codes: Tensor, scale: Tensor, bias: Tensor, x_scale: float | None, factor: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Round the bias to multiples of input scale × weight scale, as the runtime will.

    Where a weight scale is so small that the bias would leave the int32 range, the scale grows and the codes shrink.
    Where all codes are multiples of a `factor`, so are the sums of products: the bias is not rounded onto one of them.
    """
    if x_scale is None:
        return codes, scale.clamp(min=_SMALLEST_STEP), bias
    least = (bias.abs() / _LARGEST_BIAS_CODE).clamp(min=_SMALLEST_STEP) / x_scale
    shrink = (scale / least).clamp(max=1.0)
    if bool((shrink < 1).any()):
        codes = (codes * shrink.view((-1,) + (1,) * (codes.dim() - 1))).round()
    scale = torch.maximum(scale, least).float().double()
    step = (scale.float() * x_scale).double()
    return codes, scale, _rounded_beside(bias / step, factor) * step


def _rounded_beside(bias: Tensor, factor: int) -> Tensor:
    """Rounded, but never onto a multiple of `factor` from beside it: a sum would be 0 and have lost its sign."""
    rounded, multiple = bias.round(), (bias / factor).round() * factor
    lost = (rounded == multiple) & (bias != multiple) if factor > 1 else torch.zeros_like(bias, dtype=torch.bool)
    return torch.where(lost, multiple + (bias - multiple).sign(), rounded)


def _input_scale(module: GraphModule, value: object) -> float | None:
    """The scale of the codes that a layer reads, behind operators that only move them; None when it reads floats."""
    assert isinstance(value, Node)
    value = source(value)
    if value.target != DEQUANTIZE or value.args[1].op != "get_attr":  # type: ignore[union-attr]
        return None
    return float(_values(module, value.args[1]))


def _affine_of_norm(module: GraphModule, norm: Node, bias: Tensor) -> tuple[Tensor, Tensor]:
    """gain and shift with norm(x + bias) = gain · x + shift, in float64."""
    mean, variance = (_values(module, norm.args[i]).double() for i in (3, 4))
    gamma = _values(module, norm.args[1]).double() if norm.args[1] is not None else torch.ones_like(mean)
    beta = _values(module, norm.args[2]).double() if norm.args[2] is not None else torch.zeros_like(mean)
    gain = gamma / torch.sqrt(variance + float(norm.args[7]))  # type: ignore[arg-type]
    return gain, (bias - mean) * gain + beta


def _weight_source(module: GraphModule, value: object) -> tuple[WeightFakeQuantize | None, Node]:
    assert isinstance(value, Node)
    if value.op == "call_module":
        rounding = module.get_submodule(str(value.target))
        assert isinstance(rounding, WeightFakeQuantize)
        return rounding, value.all_input_nodes[0]
    return None, value


def _values(module: GraphModule, value: object) -> Tensor:
    assert isinstance(value, Node)
    owner, _, leaf = str(value.target).rpartition(".")
    return getattr(module.get_submodule(owner), leaf).detach()


def _constant(module: GraphModule, path: str, value: Tensor) -> Node:
    """A buffer at `path`, and the node that reads it."""
    owner, leaf = owner_of(module, path)
    owner.register_buffer(leaf, value)
    return module.graph.get_attr(path)


def _erase_dead(module: GraphModule) -> None:
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.delete_all_unused_submodules()
    module.recompile()
