"""Which values are rounded, so that a runtime finds whole chains of integer kernels, and to how many bits.

A value is rounded where a kernel writes it: after the batch norm and the activation that the kernel takes in. Operators
that only move values (slice, pad, max pool, view, …) keep the scale of what they read.

A layer's activation scheme is for what it reads. What a join reads, and what nobody reads in integers, has the whole
width of the kernels. A value with readers of several widths is rounded to the widest where it is written, and again
where a layer of fewer bits reads it: a shortcut costs no accuracy then.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch.fx import Graph, Node

from trimtab.graph.layers import OPERATORS as LAYERS
from trimtab.plan import PER_TENSOR, LayerDecision, Target
from trimtab.quant.operators import FLOAT_KERNELS, MOVES, family_of, source, tensor_inputs, written_value


@dataclass(frozen=True)
class Sites:
    """Decisions that say how: `values` where they are written, in graph order; `inputs` again where layers read."""

    values: dict[Node, LayerDecision] = field(default_factory=dict)
    inputs: dict[Node, LayerDecision] = field(default_factory=dict)


def find_sites(graph: Graph, layers: Mapping[Node, LayerDecision], target: Target) -> Sites:
    """Where activations are rounded when `layers` are decided like this.

    A join runs in integers when all that it reads is rounded and something integer reads it. The one depends on the
    other along the graph, so joins that cannot take part are dropped until all that are left can.
    """
    integer = {node: d for node, d in layers.items() if d.activation is not None}
    joins = {node for node in graph.nodes if family_of(node) in target.schemes_by_operator}
    while True:
        marked, able = _mark(graph, integer, joins)
        if able == joins:
            return _widths(marked, integer, joins, target)
        joins = able


def _mark(
    graph: Graph, integer: Mapping[Node, LayerDecision], joins: set[Node]
) -> tuple[dict[Node, LayerDecision], set[Node]]:
    """Values that are rounded if `joins` run in integers, and those of `joins` that then can."""
    marked: dict[Node, LayerDecision] = {}
    able = set()
    readers = {*integer, *joins}
    for node in graph.nodes:
        if node in integer:
            decision = integer[node]
            marked.setdefault(source(node.args[0]), decision)
            if LAYERS[node.target] == "convolution" or _is_read_by(readers, written_value(node)):
                marked.setdefault(written_value(node), decision)
        elif node in joins:
            values = [source(value) for value in tensor_inputs(node)]
            if all(value in marked for value in values) and _is_read_by(readers, written_value(node)):
                marked.setdefault(written_value(node), marked[values[0]])
                able.add(node)
        elif node.target in FLOAT_KERNELS and _is_read_by(joins, written_value(node)):
            value = source(node.args[0])
            if value in marked:
                marked.setdefault(written_value(node), marked[value])
    return marked, able


def _is_read_by(readers: set[Node], value: Node) -> bool:
    """Whether one of `readers` reads `value`, perhaps behind operators that only move it."""
    return any(user in readers for user in _readers(value))


def _readers(value: Node) -> Iterator[Node]:
    """What reads `value`, perhaps behind operators that only move it."""
    for user in value.users:
        if user.target in MOVES:
            yield from _readers(user)
        else:
            yield user


def _widths(
    marked: Mapping[Node, LayerDecision], integer: Mapping[Node, LayerDecision], joins: set[Node], target: Target
) -> Sites:
    """Every value at the widest of what its readers want; those that want less round it again."""
    layers: dict[Node, list[Node]] = {}
    for node in integer:
        layers.setdefault(source(node.args[0]), []).append(node)  # type: ignore[arg-type]
    found = Sites()
    for value, decision in marked.items():
        read = [integer[node] for node in layers.get(value, ())]
        if not read or _is_read_by(joins, value):
            read.append(_at_whole_width(decision, target))
        widest = max(read, key=_bits)
        found.values[value] = widest
        found.inputs.update(
            (node, integer[node]) for node in layers.get(value, ()) if _bits(integer[node]) < _bits(widest)
        )
    return found


def _bits(decision: LayerDecision) -> int:
    assert decision.activation is not None
    return decision.activation.bits


def _at_whole_width(decision: LayerDecision, target: Target) -> LayerDecision:
    """The same decision with all bits that the target's kernels read."""
    schemes = [scheme for known in target.schemes_by_operator.values() for scheme in known]
    able = [scheme for scheme in schemes if scheme.granularity == PER_TENSOR and not scheme.dynamic]
    return decision.model_copy(update={"activation": max(able, key=lambda scheme: scheme.bits)})
