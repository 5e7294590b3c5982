"""From the trained simulation to what a runtime executes: batch norm folded, weights as integer codes, rounded biases.

The folded graph has `trimtab.quantize` / `trimtab.dequantize` where fake-quantization was. Executing it in float, executing
it in integers (`integer.py`) and lowering it (`lower/`) are three readings of the same graph.
"""

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from trimtab.graph.copying import copy_module
from trimtab.graph.layers import OPERATORS as LAYERS
from trimtab.quant.fake import ActivationFakeQuantize, WeightFakeQuantize
from trimtab.quant.ops import DEQUANTIZE, QUANTIZE
from trimtab.quant.placement import averages_whole_map, described, source

aten = torch.ops.aten

_LARGEST_BIAS_CODE = 2.0**30
_VANISHING = {
    aten.dropout.default,
    aten.dropout_.default,
    aten.contiguous.default,
    aten.clone.default,
    aten.alias.default,
}
_POOLS = {aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default, aten.mean.dim}


def fold(module: GraphModule) -> GraphModule:
    """A folded copy of a fake-quantized graph in eval mode, on the CPU."""
    folded = copy_module(module).cpu()
    graph = folded.graph
    for node in list(graph.nodes):
        if node.target in _VANISHING:
            node.replace_all_uses_with(node.args[0])
        elif node.target in _POOLS and averages_whole_map(node):
            _canonical_mean(folded, node)
    _erase_dead(folded)
    for node in list(graph.nodes):
        if node.op == "call_module" and isinstance(folded.get_submodule(node.target), ActivationFakeQuantize):
            _fold_activation(folded, node)
    for node in list(graph.nodes):
        if node.target in LAYERS:
            _fold_layer(folded, node)
    _erase_dead(folded)
    return folded


def _fold_activation(module: GraphModule, node: Node) -> None:
    """Fake-quantization becomes quantize → dequantize; a ReLU that the clamp at code 0 repeats goes away."""
    site = module.get_submodule(str(node.target))
    assert isinstance(site, ActivationFakeQuantize)
    (value,) = node.all_input_nodes
    zero_point = site.zero_point.detach().squeeze().to(torch.int8 if site.grid.signed else torch.uint8)
    if (
        value.target in {aten.relu.default, aten.relu_.default}
        and len(value.users) == 1
        and int(zero_point) == site.grid.low
    ):
        value = value.all_input_nodes[0]
    with module.graph.inserting_before(node):
        scale = _constant(module, f"{node.target}.scale_value", site.scale.detach().squeeze().clone())
        zero = _constant(module, f"{node.target}.zero_value", zero_point)
        codes = module.graph.call_function(QUANTIZE, (value, scale, zero))
        decoded = module.graph.call_function(DEQUANTIZE, (codes, scale, zero))
    for new in (codes, decoded):
        new.meta = described(node)
    node.replace_all_uses_with(decoded)
    module.graph.erase_node(node)


def _fold_layer(module: GraphModule, node: Node) -> None:
    """Fold the batch norm that only this layer feeds; store weight codes and a bias on the accumulator's grid."""
    rounding, parameter = _weight_source(module, node.args[1])
    name = str(parameter.target).removesuffix(".weight")
    weight = module.get_parameter(str(parameter.target)).detach().double()
    bias = (
        _values(module, node.args[2]) if len(node.args) > 2 and node.args[2] is not None else torch.zeros(len(weight))
    )
    norm = next(iter(node.users)) if len(node.users) == 1 else None
    gain, shift = torch.ones(len(weight), dtype=torch.float64), bias.double()
    if norm is not None and norm.target == aten.batch_norm.default:
        gain, shift = _affine_of_norm(module, norm, shift)
        norm.replace_all_uses_with(node)
    column = (-1,) + (1,) * (weight.dim() - 1)
    unique = f"folded.{node.name}"
    with module.graph.inserting_before(node):
        if rounding is None:
            new_weight = _constant(module, f"{unique}.weight", (weight * gain.view(column)).float())
        else:
            codes = rounding.codes(weight.float()).double() * torch.where(gain < 0, -1.0, 1.0).view(column)
            scale = rounding.scale.detach().double() * gain.abs()
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
    scale = scale.clamp(min=float(torch.finfo(torch.float32).tiny))
    if x_scale is None:
        return codes, scale, bias
    least = bias.abs() / (_LARGEST_BIAS_CODE * x_scale)
    shrink = (scale / least.clamp(min=1e-300)).clamp(max=1.0)
    codes = (codes * shrink.view((-1,) + (1,) * (codes.dim() - 1))).round()
    scale = torch.maximum(scale, least).float().double()
    step = (scale.float() * x_scale).double()
    return codes, scale, (bias / step).round() * step


def _input_scale(module: GraphModule, value: object) -> float | None:
    """The scale of the codes that a layer reads, found behind operators that only move them; None when it reads floats."""
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
    """Global average pooling in one form: mean over (2, 3) that keeps its dimensions, rounded there if it is rounded."""
    keeps = node.target != aten.mean.dim or (len(node.args) > 2 and bool(node.args[2]))
    last = next(iter(node.users))
    rounded = len(node.users) == 1 and last.op == "call_module"
    with module.graph.inserting_before(node):
        mean = module.graph.call_function(aten.mean.dim, (node.args[0], [2, 3], True))
        mean.meta = described(node)
        result = module.graph.call_module(str(last.target), (mean,)) if rounded else mean
        result.meta = described(node)
        if not keeps:
            result = module.graph.call_function(aten.flatten.using_ints, (result, 1))
            result.meta = described(node)
    (last if rounded else node).replace_all_uses_with(result)


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
