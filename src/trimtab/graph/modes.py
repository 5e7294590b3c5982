"""Train and eval on one graph: operators carry their mode as an argument."""

from torch import fx
from torch.fx import Node

from trimtab.graph.values import Call, bind, set_argument

MARK = "trimtab_switch"
"""In a node's meta: the name of the argument that follows the mode."""

_FLAGS = ("training", "train", "use_input_stats")


def mark_switches(module: fx.GraphModule) -> None:
    """Mark, in a graph captured in eval mode, the operators whose flag is off; one that is on then is on always."""
    for node in module.graph.nodes:
        name = _flag(node)
        if name is not None and bind(node)[name] is False:
            node.meta[MARK] = name


def always_on(call: Call, name: str) -> bool:
    """Whether an operator's flag is on in eval mode too."""
    return bool(call.raw(name)) and MARK not in call.node.meta


def _flag(node: Node) -> str | None:
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None:
        return None
    return next((argument.name for argument in schema.arguments if argument.name in _FLAGS), None)


def set_mode(module: fx.GraphModule, training: bool) -> None:
    """Switch the marked operators and every submodule's flag; recompile only when an operator changed."""
    changed = False
    for node in module.graph.nodes:
        name = node.meta.get(MARK)
        if name is not None and bind(node)[name] is not training:
            set_argument(node, name, training)
            changed = True
    for child in module.modules():
        child.training = training
    if changed:
        module.recompile()
