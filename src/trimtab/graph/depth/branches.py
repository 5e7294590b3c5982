"""Residual branches: what is added to a value that goes on unchanged, so that without it the identity is left."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, fx, nn
from torch.fx import Node

from trimtab.graph.analysis import attribute, tensor_names
from trimtab.graph.depth.dominance import PostDominators
from trimtab.graph.depth.memory import DROPOUTS, Memory
from trimtab.graph.layers import find_layers
from trimtab.graph.values import bind

aten = torch.ops.aten

Operand = Literal["self", "other"]
"""An argument of an addition, by its name in the schema."""

_ADDS = {aten.add.Tensor, aten.add_.Tensor}

_IDENTITIES = DROPOUTS | {
    aten.clone.default,
    aten.contiguous.default,
    aten.alias.default,
    aten.detach.default,
    aten.detach_.default,
    aten.to.dtype,
    aten.to.dtype_layout,
    aten.to.device,
    aten.to.other,
    aten._to_copy.default,
    aten.type_as.default,
}
"""What may stand on the skip: in eval mode, and up to a cast, the value goes on as it is."""


@dataclass(frozen=True, kw_only=True)
class Branch:
    """A residual branch: the part of the graph that reaches nothing but one addition, by its argument `operand`.

    `parameters` are read inside only; `layers` are names of `network.layers` inside; `parameter_count` counts numbers;
    `node` is the addition's name in the graph; `inside` names the branches nested in this one.
    """

    name: str
    parameters: tuple[str, ...]
    layers: tuple[str, ...]
    parameter_count: int
    node: str
    inside: tuple[str, ...]
    operand: Operand = field(repr=False)


@dataclass(frozen=True)
class _Residual:
    """An addition, the operand that goes on, and the one that is added to it."""

    add: Node
    skip: Node
    added: Node
    operand: Operand


def find_branches(module: fx.GraphModule) -> tuple[Branch, ...]:
    """All branches in the order of their additions; shapes and memory are read from `meta["val"]`.

    The two operands have one shape and type, and the skip is an ancestor of what is added to it; or the skip is a
    residual sum itself, and what was there before its branches is one (attention and MLP side by side).
    Time is linear in the number of nodes, up to a logarithm, and in what the branches hold (of nested ones, each).
    """
    residuals = _find_residuals(module.graph)
    if not residuals:
        return ()
    memory, tensors = Memory(module.graph), _Tensors(module)
    tree = PostDominators(module.graph, memory.effects)
    layers = {layer.node: layer.name for layer in find_layers(module)}
    found: list[Branch] = []
    names: dict[Node, str] = {}
    taken: Counter[str] = Counter()
    for residual in residuals:
        own = tree.inside(residual.added)
        parameters = tensors.only_in(own)
        if list(residual.added.users) != [residual.add] or not parameters or not _closed(residual, own, memory):
            continue
        names[residual.add] = _name(residual, parameters, taken)
        found.append(
            Branch(
                name=names[residual.add],
                parameters=tuple(parameters),
                layers=tuple(layers[node.name] for node in own if node.name in layers),
                parameter_count=sum(attribute(module, name).numel() for name in parameters),
                node=residual.add.name,
                inside=tuple(names[node] for node in own if node in names),
                operand=residual.operand,
            )
        )
    return tuple(found)


def _find_residuals(graph: fx.Graph) -> list[_Residual]:
    """The additions of which one operand goes on: one pass, with a bit for every value that may be one."""
    source: dict[Node, Node] = {}
    for node in graph.nodes:
        first = node.args[0] if node.args else None
        source[node] = source[first] if node.target in _IDENTITIES and isinstance(first, Node) else node
    adds = {node: pair for node in graph.nodes if (pair := _operands(node)) is not None}
    bit = {
        node: 1 << k for k, node in enumerate(dict.fromkeys(source[item] for pair in adds.values() for item in pair))
    }
    above: dict[Node, int] = {}  # which of these values a node is computed from
    origin: dict[Node, Node] = {}  # where the value came from, back through identities and the skips of residual sums
    found: list[_Residual] = []
    for node in graph.nodes:
        above[node] = 0
        for item in node.all_input_nodes:
            above[node] |= above[item] | bit.get(item, 0)
        origin[node] = origin[source[node]] if source[node] is not node else node
        if node not in adds:
            continue
        a, b = adds[node]
        sides = [_Residual(node, a, b, "other"), _Residual(node, b, a, "self")]
        goes_on = [side for side in sides if above[side.added] & bit[source[side.skip]]]
        goes_on = goes_on or [side for side in sides if above[side.added] & bit[origin[side.skip]]]
        # Where either side would do there is no telling which is the branch.
        if len(goes_on) == 1 and _adds_as_it_is(goes_on[0]):
            found.append(goes_on[0])
            origin[node] = origin[goes_on[0].skip]
    return found


def _operands(node: Node) -> tuple[Node, Node] | None:
    """The two tensors of an addition that broadcasts and promotes neither."""
    if node.target not in _ADDS:
        return None
    arguments = bind(node)
    a, b = arguments["self"], arguments["other"]
    if not isinstance(a, Node) or not isinstance(b, Node) or a is b:
        return None
    values = [item.meta.get("val") for item in (a, b, node)]
    kinds = {(tuple(v.shape), v.dtype, v.device) if isinstance(v, Tensor) else None for v in values}
    return (a, b) if len(kinds) == 1 and None not in kinds else None


def _adds_as_it_is(residual: _Residual) -> bool:
    """Whether the skip has no factor: `alpha` multiplies the second operand."""
    return residual.operand == "other" or bool(bind(residual.add)["alpha"] == 1)


def _closed(residual: _Residual, own: Sequence[Node], memory: Memory) -> bool:
    """Whether in-place operators of the branch change nothing that is seen from outside."""
    inside = {node for node in own if node.op == "call_function"}
    writers = [*own, residual.add] if residual.operand == "self" else own
    return all(owner in inside for node in writers for owner in memory.written.get(node, ()))


class _Tensors:
    """Who reads each parameter, by identity: a shared one has several readers, and no branch its own."""

    def __init__(self, module: fx.GraphModule) -> None:
        self._names = tensor_names(module)
        self._parameter: dict[Node, nn.Parameter] = {}
        self._readers: dict[int, list[Node]] = defaultdict(list)
        for node in module.graph.find_nodes(op="get_attr"):
            tensor = attribute(module, str(node.target))
            if isinstance(tensor, nn.Parameter) and node.users:
                self._parameter[node] = tensor
                self._readers[id(tensor)].append(node)

    def only_in(self, own: Sequence[Node]) -> list[str]:
        """The names of parameters that nothing but these nodes reads, in graph order."""
        inside = set(own)
        here = [self._parameter[node] for node in own if node in self._parameter]
        return list(dict.fromkeys(self._names[id(p)] for p in here if inside.issuperset(self._readers[id(p)])))


def _name(residual: _Residual, parameters: Sequence[str], taken: Counter[str]) -> str:
    """The longest module path that all parameters have in common (the addition's name when there is none)."""
    paths = [parameter.split(".")[:-1] for parameter in parameters]
    common: list[str] = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    name = ".".join(common) or residual.add.name
    taken[name] += 1
    return name if taken[name] == 1 else f"{name}#{taken[name]}"
