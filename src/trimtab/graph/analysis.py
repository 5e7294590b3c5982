"""Walks a captured graph once and finds how its axes hang together.

Every operator's rule relates axes; what has no rule freezes. The result says which atoms may be cut, what every
parameter's dimensions are made of, and how arguments are written anew after a cut.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx import Node
from torch.utils import _pytree as pytree

from trimtab.graph.axes import (
    Axis,
    Dim,
    Freeze,
    MisfitError,
    constant,
    freeze,
    fresh,
    leaves,
    products,
    size,
)
from trimtab.graph.indices import MOVES, held_by, ignores_numbers
from trimtab.graph.limits import Limit, limits_of
from trimtab.graph.rules import READS_INDICES, RULES
from trimtab.graph.source import of_node
from trimtab.graph.values import Call, Count, Facts, Fix, Hidden, Origin, OverKept, Value, atoms

COMPUTED_WITH = "positions along it are computed with"

RULE_ERRORS = (
    MisfitError,
    ArithmeticError,
    AttributeError,
    LookupError,
    NotImplementedError,
    TypeError,
    ValueError,
    RuntimeError,
)


@dataclass(frozen=True)
class Analysis:
    """What is known about a graph's axes.

    `tensors` maps the identity of a parameter or buffer to its dimensions, `names` to its first name; `cuttable` holds
    the atoms that a layer produces and nothing freezes; `produced` lists, in graph
    order, the dimensions that layers produce; `inexact` says for some of them why no cut equals the mask, `limits` how
    many units may stay; `alone` why of some dimensions no atom is left. `followers` are tensors of inserted modules
    that have a value for every position of a dimension: no weights of the network, but cut with it.
    """

    tensors: dict[int, tuple[Dim, ...]]
    names: dict[int, str]
    roles: dict[Origin, str]
    cuttable: set[Axis]
    produced: list[tuple[Dim, Origin | None]]
    inexact: dict[Axis, Freeze]
    buffers: set[int]
    fixes: list[tuple[Node, Fix]]
    over_kept: dict[Node, OverKept]
    hidden: dict[Node, Hidden]
    limits: dict[Axis, Limit]
    alone: list[tuple[Dim, Freeze]]
    followers: dict[int, tuple[Dim, ...]]


def analyse(module: fx.GraphModule, parameters: Mapping[int, Value] | None = None) -> Analysis:
    """Find the axes of `module`, whose nodes carry example values in `meta["val"]`. Linear in the number of nodes.

    `parameters` gives, by identity, what is known of some beforehand; else a parameter is zero at a removed unit.
    """
    walk = _Walk(module)
    walk.tensors.update(parameters or {})
    for node in module.graph.nodes:
        walk.visit(node)
    return walk.finish()


class _Walk:
    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        self.facts = Facts()
        self.tensors: dict[int, Value] = {}
        self.followers: dict[int, tuple[Dim, ...]] = {}
        self.buffers: set[int] = set()
        self.names = tensor_names(module)

    def visit(self, node: Node) -> None:
        match node.op:
            case "placeholder":
                self.facts.values[node] = self._fixed(node, "it is an input of the network")
            case "get_attr":
                self.facts.values[node] = self._attribute(node)
            case "output":
                self._freeze(node, "it is an output of the network", "output")
            case "call_module" if getattr(self.module.get_submodule(str(node.target)), "elementwise", False):
                self.facts.values[node] = self._elementwise(node)
            case _:
                self.facts.values[node] = self._call(node)

    def _attribute(self, node: Node) -> Value | None:
        tensor = attribute(self.module, str(node.target))
        if not isinstance(tensor, Tensor) or not node.users:
            return None
        key = id(tensor)
        if key not in self.tensors:
            dims = tuple(fresh(n) for n in tensor.shape)
            self.tensors[key] = Value(dims, set(), tuple((key, d) for d in range(len(dims))), const=True)
            if key not in self.names:
                self.names[key] = str(node.target)
            if not isinstance(tensor, torch.nn.Parameter):
                self.buffers.add(key)
                # Only parameters are masked, so a buffer is not zero at a removed unit.
                self.tensors[key].alive = {axis for dim in dims for axis in dim}
        return self.tensors[key]

    def _elementwise(self, node: Node) -> Value | None:
        found = self.facts.values.get(node.args[0]) if node.args and isinstance(node.args[0], Node) else None
        if not isinstance(found, Value):
            return self._unknown(node, "it is a module on something that is no tensor")
        if found.index is not None:
            freeze(found.index, _why(node, COMPUTED_WITH))
        inserted = self.module.get_submodule(str(node.target))
        for name in getattr(inserted, "by_row", ()):
            self.followers[id(getattr(inserted, name))] = found.dims[:1]
        for dim in found.dims[1:] if getattr(inserted, "by_block", False) else ():
            freeze(dim, _why(node, "groups of its inputs share a scale"))
        return Value(found.dims, set(found.alive), found.origin, found.const)

    def _call(self, node: Node) -> Any:
        inputs = self._inputs(node)
        if not any(isinstance(value, Value) for value in inputs) and not _tensors(node):
            return self._arithmetic(node, inputs)
        rule = RULES.get(node.target) or RULES.get(str(node.target))
        if rule is None:
            return self._unknown(node, f"{node.target} has no rule")
        self._freeze_indexed(node, inputs)
        call = Call(node, self.facts, of_node(node))
        try:
            found = rule(call)
            _check(node, found)
        except RULE_ERRORS as error:
            return self._unknown(node, str(error) or type(error).__name__)
        self.facts.fixes.extend(call.fixes)
        return self._settle(node, found, inputs)

    def _freeze_indexed(self, node: Node, inputs: list[Any]) -> None:
        """What positions along a dimension are used for must be known: other numbers stand for them after a cut."""
        reads = {node.target, str(node.target)} & READS_INDICES or ignores_numbers(node.target)
        for i, value in enumerate(inputs):
            if isinstance(value, Value) and value.index is not None:
                known = reads or (node.target in MOVES and held_by(node, size(value.index)))
                if not known or (i == 0 and writes_first(node)):
                    freeze(value.index, _why(node, COMPUTED_WITH))

    def _arithmetic(self, node: Node, inputs: list[Any]) -> None:
        """Integers computed from sizes: they would no longer follow a cut, so the sizes are frozen."""
        for value in inputs:
            if isinstance(value, Count):
                freeze(value.dim, _why(node, "its size is used in arithmetic"))

    def _settle(self, node: Node, found: Any, inputs: list[Any]) -> Any:
        """Constness, and what an in-place operator does to the value that it writes."""
        given = [value for value in inputs if isinstance(value, Value)]
        outs = [value for value in (found if isinstance(found, list) else [found]) if isinstance(value, Value)]
        if node.target is not getitem:
            for value in outs:
                value.const = value.const or all(value.const for value in given)
                if node.target in MOVES and given:
                    value.index = given[0].index
        if outs and given and writes_first(node):
            given[0].alive |= outs[0].alive
            outs[0].alive = given[0].alive
        return found

    def _unknown(self, node: Node, reason: str) -> Any:
        self._freeze(node, reason)
        return self._fixed(node, reason)

    def _freeze(self, node: Node, reason: str, operator: str | None = None) -> None:
        why = _why(node, reason, operator)
        for value in self._inputs(node):
            for dim in value.dims if isinstance(value, Value) else [value.dim] if isinstance(value, Count) else []:
                freeze(dim, why)
            if isinstance(value, Value) and value.index is not None:
                freeze(value.index, why)

    def _fixed(self, node: Node, reason: str) -> Any:
        why = _why(node, reason)
        values = [Value(tuple(constant(int(n), why) for n in t.shape)) for t in _tensors(node)]
        if isinstance(node.meta.get("val"), (list, tuple)):
            return values
        return values[0] if values else None

    def _inputs(self, node: Node) -> list[Any]:
        flat: list[Any] = []
        for item in node.all_input_nodes:
            found = self.facts.values.get(item)
            flat.extend(found if isinstance(found, list) else [found])
        return flat

    def finish(self) -> Analysis:
        for value, why in self.facts.divisors:
            alive = atoms(value.alive)
            for atom in {atom for dim in value.dims for atom in leaves(dim)} - alive:
                freeze((atom,), why)
        tensors = {key: value.dims for key, value in self.tensors.items()}
        self._freeze_squares(tensors.values())
        limits = limits_of(self.facts.limits)
        produced = {atom for dim, _ in self.facts.produced for atom in leaves(dim)}
        held = {atom for dims in tensors.values() for dim in dims for atom in leaves(dim)}
        return Analysis(
            tensors=tensors,
            names=self.names,
            roles=self.facts.roles,
            cuttable={atom for atom in produced & held if atom.frozen is None and atom.size > 1},
            produced=self.facts.produced,
            inexact=self._inexact(),
            buffers=self.buffers,
            fixes=self.facts.fixes,
            over_kept=self.facts.over_kept,
            hidden=self.facts.hidden,
            limits=limits,
            alone=self.facts.alone,
            followers=self.followers,
        )

    def _freeze_squares(self, tensors: Iterable[tuple[Dim, ...]]) -> None:
        for dims in tensors:
            for dim in dims:
                for product in products(dim):
                    for a, b in combinations(product, 2):
                        why = Freeze(operator="view", reason="it meets itself in one dimension", source="")
                        for atom in set(leaves((a,))) & set(leaves((b,))):
                            freeze((atom,), why)

    def _inexact(self) -> dict[Axis, Freeze]:
        out: dict[Axis, Freeze] = {}
        for dim, sets, why in self.facts.sums:
            if all(sets):
                for atom in set.intersection(*(atoms(alive) for alive in sets)) & set(leaves(dim)):
                    out.setdefault(atom, why)
        return out


def _why(node: Node, reason: str, operator: str | None = None) -> Freeze:
    return Freeze(operator=operator or str(node.target), reason=reason, source=of_node(node))


def _tensors(node: Node) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(node.meta.get("val")) if isinstance(leaf, Tensor)]


def _check(node: Node, found: Any) -> None:
    """A rule's output must have the shape that the operator has on the example: else it is not sound."""
    if isinstance(found, Count):
        return
    values = found if isinstance(found, list) else [found]
    shapes = [tuple(t.shape) for t in _tensors(node)]
    stated = [tuple(size(dim) for dim in value.dims) for value in values]
    if stated != shapes:
        raise MisfitError(f"its rule gives shapes {stated}, the operator gives {shapes}")


def writes_first(node: Node) -> bool:
    """Whether the operator changes its first argument in place."""
    schema = getattr(node.target, "_schema", None)
    first = schema.arguments[0].alias_info if schema is not None and schema.arguments else None
    return first is not None and first.is_write


def attribute(module: torch.nn.Module, name: str) -> Any:
    """A parameter, buffer or other attribute by its dotted name."""
    owner, _, last = name.rpartition(".")
    return getattr(module.get_submodule(owner), last)


def owner_of(module: torch.nn.Module, name: str) -> tuple[torch.nn.Module, str]:
    """The submodule that owns what has this dotted name, made where it is not there, and the last part of the name."""
    *path, last = name.split(".")
    for part in path:
        if not hasattr(module, part):
            module.add_module(part, torch.nn.Module())
        module = module.get_submodule(part)
    return module, last


def tensor_names(module: torch.nn.Module) -> dict[int, str]:
    """The first name of every parameter and buffer, by identity: shared weights have one."""
    names: dict[int, str] = {}
    for name, tensor in (
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ):
        names.setdefault(id(tensor), name)
    return names
