"""Where values are rounded: the sites of fake-quantization, so that a runtime finds whole chains of integer kernels.

A value is rounded where a kernel writes it: after the batch norm and the activation that the kernel takes in. Operators
that only move values (slice, pad, max pool, view, …) keep the scale of what they read.
"""

from collections.abc import Iterator, Mapping

import torch
from torch.fx import Graph, GraphModule, Node

from trimtab.graph.analysis import tensor_names
from trimtab.graph.copying import described
from trimtab.graph.layers import OPERATORS as LAYERS
from trimtab.graph.layers import parameter_of
from trimtab.graph.modes import MARK
from trimtab.plan import LayerDecision, Scheme, Target
from trimtab.quant.activations import ActivationFakeQuantize
from trimtab.quant.grids import GRIDS
from trimtab.quant.weights import WeightFakeQuantize

aten = torch.ops.aten

_JOINS: dict[object, str] = {
    aten.add.Tensor: "add",
    aten.add_.Tensor: "add",
    aten.cat.default: "concatenation",
    aten.avg_pool1d.default: "average_pool",
    aten.avg_pool2d.default: "average_pool",
    aten.mean.dim: "mean",
    aten.adaptive_avg_pool1d.default: "average_pool",
    aten.adaptive_avg_pool2d.default: "average_pool",
}
FUSED_ACTIVATIONS: set[object] = {aten.relu.default, aten.relu_.default, aten.hardtanh.default, aten.hardtanh_.default}
ADAPTIVE_POOLS: set[object] = {aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default}
MOVES: set[object] = {
    aten.view.default,
    aten.reshape.default,
    aten.flatten.using_ints,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
    aten.permute.default,
    aten.transpose.int,
    aten.contiguous.default,
    aten.clone.default,
    aten.slice.Tensor,
    aten.select.int,
    aten.constant_pad_nd.default,
    aten.pad.default,
    aten.max_pool1d.default,
    aten.max_pool2d.default,
    aten.dropout.default,
    aten.dropout_.default,
}


def insert_fake_quantization(module: GraphModule, decisions: Mapping[str, LayerDecision], target: Target) -> None:
    """Insert fake-quantization for the decided layers, in place; a layer without a decision stays in float."""
    layers = {node: decisions[name] for node, name in layer_calls(module) if name in decisions}
    rounded: dict[str, str] = {}
    for node, decision in layers.items():
        if decision.weight is not None:
            _insert_weight(module, node, decision, rounded)
    for site, scheme in _sites(module.graph, layers, target).items():
        _insert_activation(module, site, scheme)
    module.graph.lint()
    module.recompile()


def layer_calls(module: GraphModule) -> Iterator[tuple[Node, str]]:
    """Every call of a layer with a weight parameter, with the layer's name (its weight's, less `.weight`)."""
    names = tensor_names(module)
    for node in module.graph.nodes:
        weight = parameter_of(module, node.args[1], names) if node.target in LAYERS else None
        if weight is not None:
            yield node, weight.removesuffix(".weight")


def _sites(graph: Graph, layers: Mapping[Node, LayerDecision], target: Target) -> dict[Node, Scheme]:
    """The values to round and how, in graph order.

    A join runs in integers when all that it reads is rounded and something integer reads it. The one depends on the
    other along the graph, so joins that cannot take part are dropped until all that are left can.
    """
    integer = {node: d.activation for node, d in layers.items() if d.activation is not None}
    joins = {node for node in graph.nodes if _family(node) in target.schemes_by_operator}
    while True:
        marked, able = _mark(graph, integer, joins)
        if able == joins:
            return marked
        joins = able


def _mark(graph: Graph, integer: Mapping[Node, Scheme], joins: set[Node]) -> tuple[dict[Node, Scheme], set[Node]]:
    """Values that are rounded if `joins` run in integers, and those of `joins` that then can."""
    marked: dict[Node, Scheme] = {}
    able = set()
    readers = {*integer, *joins}
    for node in graph.nodes:
        if node in integer:
            scheme = integer[node]
            marked.setdefault(source(node.args[0]), scheme)
            if LAYERS[node.target] == "convolution" or _is_read_by(readers, written_value(node)):
                marked.setdefault(written_value(node), scheme)
        elif node in joins:
            values = [source(value) for value in _tensor_inputs(node)]
            if all(value in marked for value in values) and _is_read_by(readers, written_value(node)):
                marked.setdefault(written_value(node), marked[values[0]])
                able.add(node)
    return marked, able


def source(value: Node) -> Node:
    """The value that operators which only move data have carried here."""
    while value.target in MOVES and pads_with_zero(value):
        value = value.args[0]  # type: ignore[assignment]
    return value


def written_value(node: Node) -> Node:
    """Where a kernel's result is final: after the batch norm (of a layer) and the activation that only it feeds."""
    node = norm_of(node) or node
    return only_user(node, FUSED_ACTIVATIONS) or node


def norm_of(node: Node) -> Node | None:
    """The batch norm that folds into a layer: its only reader, over its output channels, with fixed statistics."""
    norm = only_user(node, {aten.batch_norm.default}) if node.target in LAYERS else None
    if norm is None or norm.args[3] is None or (norm.args[5] and MARK not in norm.meta):
        return None
    channels_are_last = LAYERS[node.target] == "linear"
    return None if channels_are_last and norm.meta["val"].dim() != 2 else norm


def only_user(node: Node, targets: set[object]) -> Node | None:
    """The reader of `node` if there is just one and it is one of these operators."""
    user = next(iter(node.users), None)
    return user if len(node.users) == 1 and user is not None and user.target in targets else None


def _is_read_by(readers: set[Node], value: Node) -> bool:
    """Whether one of `readers` reads `value`, perhaps behind operators that only move it."""
    return any(user in readers or (user.target in MOVES and _is_read_by(readers, user)) for user in value.users)


def _family(node: Node) -> str | None:
    family = _JOINS.get(node.target)
    if family == "add" and not (len(_tensor_inputs(node)) == 2 and node.kwargs.get("alpha", 1) == 1):
        return None
    if family == "mean" and not averages_whole_map(node):
        return None
    return "mean" if family == "average_pool" and averages_whole_map(node) else family


def averages_whole_map(node: Node) -> bool:
    """Whether a pooling or mean node averages each [batch, channel] map to one value."""
    rank = node.args[0].meta["val"].dim()  # type: ignore[union-attr]
    if rank not in {3, 4}:
        return False
    if node.target == aten.mean.dim:
        dims: list[int] = list(node.args[1] or [])  # type: ignore[arg-type]
        return sorted(dim % rank for dim in dims) == list(range(2, rank))
    if node.target in ADAPTIVE_POOLS:
        return set(node.args[1]) == {1}  # type: ignore[arg-type]
    shape = [int(size) for size in node.args[0].meta["val"].shape]  # type: ignore[union-attr]
    padding = node.args[3] if len(node.args) > 3 else [0]
    plain = len(node.args) < 7 or node.args[6] is None
    return plain and list(node.args[1]) == shape[2:] and not any(padding)  # type: ignore[arg-type]


def pads_with_zero(node: Node) -> bool:
    """False for padding with anything but zeros; True for every operator that does not pad."""
    if node.target == aten.pad.default:
        mode = node.args[2] if len(node.args) > 2 else "constant"
        return mode == "constant" and not (node.args[3] if len(node.args) > 3 else 0)
    return node.target != aten.constant_pad_nd.default or not (node.args[2] if len(node.args) > 2 else 0)


def _tensor_inputs(node: Node) -> list[Node]:
    first = node.args[0]
    values = list(first) if isinstance(first, (list, tuple)) else [*node.args[:2]]
    return [v for v in values if isinstance(v, Node) and isinstance(v.meta.get("val"), torch.Tensor)]


def _insert_weight(module: GraphModule, node: Node, decision: LayerDecision, rounded: dict[str, str]) -> None:
    """One module a weight, however often and under however many names the graph reads it."""
    weight, scheme = node.args[1], decision.weight
    assert isinstance(weight, Node)
    assert scheme is not None
    if weight.op == "call_module":
        return
    name = rounded.setdefault(decision.layer, f"fake_quantize.{weight.name}")
    if name not in dict(module.named_modules()):
        parameter = module.get_parameter(str(weight.target))
        module.add_submodule(name, WeightFakeQuantize(GRIDS.load(scheme.grid)(scheme.bits), parameter))
    call = next((user for user in weight.users if user.target == name), None)
    if call is None:
        with module.graph.inserting_after(weight):
            call = module.graph.call_module(name, (weight,))
        call.meta = described(weight)
    node.update_arg(1, call)


def _insert_activation(module: GraphModule, site: Node, scheme: Scheme) -> None:
    name = f"fake_quantize.{site.name}"
    module.add_submodule(name, ActivationFakeQuantize(GRIDS.load(scheme.grid)(scheme.bits), where=site.name))
    with module.graph.inserting_after(site):
        rounded = module.graph.call_module(name, (site,))
    rounded.meta = described(site)
    site.replace_all_uses_with(rounded, delete_user_cb=lambda user: user is not rounded)
