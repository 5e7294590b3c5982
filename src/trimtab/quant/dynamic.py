"""Activations whose range is that of each tensor at run time, for linear and recurrent layers."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from trimtab.graph.copying import described
from trimtab.plan import LayerDecision

_SMALLEST = torch.finfo(torch.float32).tiny


class DynamicFakeQuantize(nn.Module):
    """Rounds a tensor to 256 steps from its least to its largest value, zero among them; straight through.

    Rows of a batch share the range, so that a row's result depends on the others, as it does in the runtime.
    """

    elementwise = True  # what the graph analysis needs to know

    def forward(self, x: Tensor) -> Tensor:
        values = x.detach().float()
        scale, zero_point = dynamic_range(values)
        codes = ((values / scale).round() + zero_point).clamp(0, 255)
        rounded = ((codes - zero_point) * scale).to(x.dtype)
        return x + (rounded - x).detach()


def dynamic_range(x: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero point, scalars, of the operator DynamicQuantizeLinear; an all-zero tensor gets scale 1."""
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = (high - low) / 255
    scale = torch.where(scale > _SMALLEST, scale, torch.ones_like(scale))
    return scale, (-low / scale).clamp(0, 255).round()


def is_dynamic(decision: LayerDecision) -> bool:
    """Whether the layer reads values that are rounded to a range found at run time."""
    return decision.activation is not None and decision.activation.dynamic


def round_inputs(module: GraphModule, decisions: Mapping[Node, LayerDecision]) -> None:
    """Insert the rounding before every layer (linear or recurrent) that is decided so; readers of a value share it."""
    for node, decision in decisions.items():
        value = node.args[0]
        if not is_dynamic(decision) or not isinstance(value, Node) or _rounds(module, value):
            continue
        call = next((user for user in value.users if _rounds(module, user)), None)
        if call is None:
            name = f"fake_quantize.{value.name}_dynamic"
            module.add_submodule(name, DynamicFakeQuantize())
            with module.graph.inserting_after(value):
                call = module.graph.call_module(name, (value,))
            call.meta = described(value)
        node.update_arg(0, call)


def _rounds(module: GraphModule, node: Node) -> bool:
    return node.op == "call_module" and isinstance(module.get_submodule(str(node.target)), DynamicFakeQuantize)
