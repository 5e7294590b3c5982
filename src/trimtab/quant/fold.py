"""From the trained simulation to what a runtime executes: batch norm folded, weights as integer codes, rounded biases.

The folded graph has `trimtab.quantize` / `trimtab.dequantize` where fake-quantization was. Executing it in float,
executing it in integers (`integer.py`) and lowering it (`lower/`) are three readings of the same graph.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from trimtab.errors import LoweringError
from trimtab.graph.copying import copy_module, described
from trimtab.graph.layers import OPERATORS as LAYERS
from trimtab.graph.propagate import batch_dimensions
from trimtab.graph.source import of_node
from trimtab.graph.values import bind
from trimtab.quant.activations import ActivationFakeQuantize
from trimtab.quant.grids import Fit
from trimtab.quant.ops import DEQUANTIZE, QUANTIZE
from trimtab.quant.placement import (
    ADAPTIVE_POOLS,
    FUSED_ACTIVATIONS,
    averages_whole_map,
    norm_of,
    only_user,
    source,
)
from trimtab.quant.weights import WeightFakeQuantize

aten = torch.ops.aten

_LARGEST_BIAS_CODE = 2.0**30
_SMALLEST_STEP = 1e-30  # of the accumulator: well inside float32
_VANISHING = {
    aten.dropout.default,
    aten.dropout_.default,
    aten.contiguous.default,
    aten.clone.default,
    aten.alias.default,
}
AVERAGE_POOLS: set[object] = {aten.avg_pool1d.default, aten.avg_pool2d.default}
_POOLS = {*AVERAGE_POOLS, *ADAPTIVE_POOLS, aten.mean.dim}


def fold(module: GraphModule) -> GraphModule:
    """A folded copy of a fake-quantized graph in eval mode, on the CPU. Raises: NumericsError for an unknown range."""
    folded = copy_module(module).cpu()
    graph = folded.graph
    batch = batch_dimensions(folded)
    _erase_dead(folded)
    for node in list(graph.nodes):
        if node.target in _VANISHING:
            node.replace_all_uses_with(node.args[0])
        elif node.target in _POOLS and averages_whole_map(node):
            _canonical_mean(folded, node)
        elif node.target in ADAPTIVE_POOLS:
            _canonical_pool(node)
        elif node.target in AVERAGE_POOLS:
            _plain_windows(node)
    _erase_dead(folded)
    for node in list(graph.nodes):
        if node.op == "call_module" and isinstance(folded.get_submodule(node.target), ActivationFakeQuantize):
            _fold_activation(folded, node)
    for node in list(graph.nodes):
        if node.target in LAYERS:
            _fold_layer(folded, node)
    for node in list(graph.nodes):
        if node.target == aten.linear.default:
            _flatten_rows(folded, node, batch[node])
    _erase_dead(folded)
    return folded


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
    with module.graph.inserting_before(node):
        scale = _constant(module, f"{node.target}.scale_value", step.squeeze().clone())
        zero = _constant(module, f"{node.target}.zero_value", zero_point)
        codes = [module.graph.call_function(QUANTIZE, (value, scale, zero))]
        if (low, high) != (site.grid.low, site.grid.high):
            codes.append(module.graph.call_function(aten.clamp.default, (codes[0], low, high)))
        decoded = module.graph.call_function(DEQUANTIZE, (codes[-1], scale, zero))
    for new in (*codes, decoded):
        new.meta = described(node)
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
    weight = module.get_parameter(str(parameter.target)).detach().double()
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
            new_weight = _constant(module, f"{unique}.weight", (weight * gain.view(column)).float())
        else:
            codes = rounding.codes(weight.float()).double() * torch.where(gain < 0, -1.0, 1.0).view(column)
            scale = rounding.step().detach().double() * gain.abs()
            codes, scale, shift = _fit_accumulator(codes, scale, shift, _input_scale(module, node.args[0]))
            new_weight = module.graph.call_function(
                DEQUANTIZE,
                (
                    _constant(module, f"{unique}.codes", codes.to(torch.int8)),
                    _constant(module, f"{unique}.scale", scale.float()),
                    _constant(module, f"{unique}.zero", torch.zeros(len(scale), dtype=torch.int8)),
                ),
            )
        new_bias = _constant(module, f"{unique}.bias", shift.float())
    node.args = (node.args[0], new_weight, new_bias, *node.args[3:])
    node.meta["layer"] = name


def _fit_accumulator(
    codes: Tensor, scale: Tensor, bias: Tensor, x_scale: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Round the bias to multiples of input scale × weight scale, as the runtime will.

    Where a weight scale is so small that the bias would leave the int32 range, the scale grows and the codes shrink.
    """
    if x_scale is None:
        return codes, scale.clamp(min=_SMALLEST_STEP), bias
    least = (bias.abs() / _LARGEST_BIAS_CODE).clamp(min=_SMALLEST_STEP) / x_scale
    shrink = (scale / least).clamp(max=1.0)
    codes = (codes * shrink.view((-1,) + (1,) * (codes.dim() - 1))).round()
    scale = torch.maximum(scale, least).float().double()
    step = (scale.float() * x_scale).double()
    return codes, scale, (bias / step).round() * step


def _input_scale(module: GraphModule, value: object) -> float | None:
    """The scale of the codes that a layer reads, behind operators that only move them; None when it reads floats."""
    assert isinstance(value, Node)
    value = source(value)
    if value.target != DEQUANTIZE:
        return None
    return float(_values(module, value.args[1]))


def _affine_of_norm(module: GraphModule, norm: Node, bias: Tensor) -> tuple[Tensor, Tensor]:
    """gain and shift with norm(x + bias) = gain · x + shift, in float64."""
    mean, variance = (_values(module, norm.args[i]).double() for i in (3, 4))
    gamma = _values(module, norm.args[1]).double() if norm.args[1] is not None else torch.ones_like(mean)
    beta = _values(module, norm.args[2]).double() if norm.args[2] is not None else torch.zeros_like(mean)
    gain = gamma / torch.sqrt(variance + float(norm.args[7]))  # type: ignore[arg-type]
    return gain, (bias - mean) * gain + beta


def _canonical_mean(module: GraphModule, node: Node) -> None:
    """Global average pooling in one form: a mean that keeps its dimensions, rounded there if it is rounded."""
    rank = node.args[0].meta["val"].dim()  # type: ignore[union-attr]
    keeps = node.target != aten.mean.dim or (len(node.args) > 2 and bool(node.args[2]))
    last = next(iter(node.users))
    rounded = len(node.users) == 1 and last.op == "call_module"
    with module.graph.inserting_before(node):
        mean = module.graph.call_function(aten.mean.dim, (node.args[0], list(range(2, rank)), True))
        mean.meta = described(node)
        result = module.graph.call_module(str(last.target), (mean,)) if rounded else mean
        result.meta = described(node)
        if not keeps:
            result = module.graph.call_function(aten.flatten.using_ints, (result, 1))
            result.meta = described(node)
    (last if rounded else node).replace_all_uses_with(result)


def _canonical_pool(node: Node) -> None:
    """Adaptive average pooling whose windows are all alike is plain average pooling."""
    before, after = (list(value.meta["val"].shape[2:]) for value in (node.args[0], node))  # type: ignore[union-attr]
    if any(large % small for large, small in zip(before, after, strict=True)):
        return
    window = [large // small for large, small in zip(before, after, strict=True)]
    node.target = aten.avg_pool1d.default if len(window) == 1 else aten.avg_pool2d.default
    node.args = (node.args[0], window, window, [0] * len(window), False, True)


def _plain_windows(node: Node) -> None:
    """Average pooling as runtimes understand it: they divide by the whole window where padding is counted.

    torch divides the partial windows of `ceil_mode` by the part inside the padded map.
    """
    given = bind(node)
    if given.get("divisor_override"):
        raise LoweringError(f"{of_node(node)}: average pooling with divisor_override has no runtime; multiply after it")
    before, after = (list(value.meta["val"].shape[2:]) for value in (node.args[0], node))  # type: ignore[union-attr]
    window, padding = (each(given[name], len(before)) for name in ("kernel_size", "padding"))
    stride = each(given["stride"] or window, len(before))
    ceiling, counted = bool(given["ceil_mode"]), bool(given["count_include_pad"])
    sizes = zip(before, window, stride, padding, strict=True)
    if [(n + 2 * p - k) // s + 1 for n, k, s, p in sizes] == after:
        ceiling = False
    elif any(padding) and counted:
        raise LoweringError(
            f"{of_node(node)}: average pooling with ceil_mode that counts its padding has no runtime; "
            "set count_include_pad=False or pad before it"
        )
    else:
        counted = False
    node.args = (node.args[0], window, stride, padding, ceiling, counted)
    node.kwargs = {}


def each(setting: Any, rank: int) -> list[int]:
    """One number for every dimension, from a number or a list of none, one or all."""
    numbers = list(setting) if isinstance(setting, (list, tuple)) else [setting]
    return numbers * rank if len(numbers) == 1 else numbers


def _flatten_rows(module: GraphModule, node: Node, batch: tuple[int, ...]) -> None:
    """An integer linear layer over more dimensions reads and writes a matrix: runtimes have no other kernel.

    The dimensions `batch` of its output grow with the rows. Raises: LoweringError for more than one.
    """
    weight, shape = node.args[1], node.meta["val"].shape
    if len(shape) == 2 or not isinstance(weight, Node) or weight.target != DEQUANTIZE:
        return
    if len(batch) > 1:
        raise LoweringError(
            f"{of_node(node)}: one dimension of a quantized linear layer may grow with the batch, "
            f"{len(batch)} do; leave this layer in float"
        )
    last = node
    while last.target != QUANTIZE:
        following = only_user(last, {*FUSED_ACTIVATIONS, QUANTIZE})
        if following is None:
            break
        last = following
    with module.graph.inserting_before(node):
        width = module.get_buffer(str(weight.args[0].target)).shape[1]  # type: ignore[union-attr]
        node.update_arg(0, module.graph.call_function(aten.reshape.default, (node.args[0], [-1, width])))
    with module.graph.inserting_after(last):
        sizes = [-1 if i in batch else int(size) for i, size in enumerate(shape)]
        restored = module.graph.call_function(aten.reshape.default, (last, sizes))
    restored.meta = described(last)
    last.replace_all_uses_with(restored, delete_user_cb=lambda user: user is not restored)


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
    *parents, leaf = path.split(".")
    owner: nn.Module = module
    for parent in parents:
        if not hasattr(owner, parent):
            owner.add_module(parent, nn.Module())
        owner = getattr(owner, parent)
    owner.register_buffer(leaf, value)
    return module.graph.get_attr(path)


def _erase_dead(module: GraphModule) -> None:
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.delete_all_unused_submodules()
    module.recompile()
