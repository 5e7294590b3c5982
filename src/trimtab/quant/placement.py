"""Fake-quantization put into a graph: modules that round weights, and activations at their sites (`sites.py`)."""

from collections.abc import Iterator, Mapping
from typing import cast

from torch import Tensor
from torch.fx import GraphModule, Node

from trimtab.graph.copying import described
from trimtab.graph.layers import OPERATORS as LAYERS
from trimtab.plan import PER_NETWORK, LayerDecision, Scheme, Target
from trimtab.quant.dynamic import is_dynamic, round_inputs
from trimtab.quant.grids import GRIDS
from trimtab.quant.learned import rounding_of_activation
from trimtab.quant.sites import find_sites
from trimtab.quant.stored import WeightRead, weight_reads
from trimtab.quant.weights import WeightFakeQuantize, share_scale


def insert_fake_quantization(module: GraphModule, decisions: Mapping[str, LayerDecision], target: Target) -> None:
    """Insert fake-quantization for the decided layers, in place; a layer without a decision stays in float."""
    rounded: dict[str, str] = {}
    for read in weight_reads(module):
        decision = decisions.get(read.name)
        if decision is not None and decision.weight is not None:
            _insert_weight(module, read, decision, rounded)
    _share_scales(module, {path: decisions[name] for name, path in rounded.items()})
    layers = {node: decisions[name] for node, name in layer_calls(module) if name in decisions}
    recurrent = {r.reader: decisions[r.name] for r in weight_reads(module) if r.recurrent and r.name in decisions}
    round_inputs(module, layers | recurrent)
    layers = {node: decision for node, decision in layers.items() if not is_dynamic(decision)}
    sites = find_sites(module.graph, layers, target)
    for site, decision in sites.values.items():
        _insert_activation(module, site, decision)
    for node, decision in sites.inputs.items():
        _insert_at_input(module, node, decision)
    module.graph.lint()
    module.recompile()


def layer_calls(module: GraphModule) -> Iterator[tuple[Node, str]]:
    """Every call of a layer with a weight parameter, with the layer's name (its weight's, less `.weight`)."""
    for read in weight_reads(module):
        if read.reader.target in LAYERS:
            yield read.reader, read.name


def _insert_weight(module: GraphModule, read: WeightRead, decision: LayerDecision, rounded: dict[str, str]) -> None:
    """One module a weight, however often and under however many names the graph reads it."""
    weight, scheme = read.weight, decision.weight
    assert scheme is not None
    if weight.op == "call_module":
        return
    name = rounded.setdefault(decision.layer, f"fake_quantize.{weight.name}")
    if name not in dict(module.named_modules()):
        parameter = module.get_parameter(str(weight.target))
        grid = GRIDS.load(scheme.grid)(scheme.bits)
        module.add_submodule(name, WeightFakeQuantize(grid, parameter, scheme.granularity, where=decision.layer))
    call = next((user for user in weight.users if user.target == name), None)
    if call is None:
        with module.graph.inserting_after(weight):
            call = module.graph.call_module(name, (weight,))
        call.meta = described(weight)
    read.reader.replace_input_with(weight, call)


def _share_scales(module: GraphModule, rounded: Mapping[str, LayerDecision]) -> None:
    """The weights of a scheme with one scale for the network get it; decisions by the name of the rounding module."""
    together: dict[Scheme, dict[str, Tensor]] = {}
    for call in module.graph.find_nodes(op="call_module"):
        scheme = rounded[call.target].weight if call.target in rounded else None
        if scheme is not None and scheme.granularity == PER_NETWORK:
            weight = module.get_parameter(str(call.all_input_nodes[0].target))
            together.setdefault(scheme, {})[call.target] = weight
    for weights in together.values():
        modules = [cast(WeightFakeQuantize, module.get_submodule(name)) for name in weights]
        share_scale(modules, list(weights.values()))


def _insert_activation(module: GraphModule, site: Node, decision: LayerDecision) -> None:
    name = f"fake_quantize.{site.name}"
    module.add_submodule(name, rounding_of_activation(decision, where=site.name))
    with module.graph.inserting_after(site):
        rounded = module.graph.call_module(name, (site,))
    rounded.meta = described(site)
    site.replace_all_uses_with(rounded, delete_user_cb=lambda user: user is not rounded)


def _insert_at_input(module: GraphModule, node: Node, decision: LayerDecision) -> None:
    """Round what a layer reads to fewer bits; layers with the same scheme share it."""
    (value,), scheme = node.all_input_nodes[:1], decision.activation
    assert scheme is not None
    written = value.all_input_nodes[0] if value.op == "call_module" else value
    name = f"fake_quantize.{written.name}_to_{scheme.bits}_bits"
    if name not in dict(module.named_modules()):
        module.add_submodule(name, rounding_of_activation(decision, where=f"{written.name} to {scheme.bits} bits"))
        with module.graph.inserting_after(value):
            module.graph.call_module(name, (value,)).meta = described(value)
    node.update_arg(0, next(user for user in value.users if user.target == name))
