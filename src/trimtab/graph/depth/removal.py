"""Depth: a new network without some of its residual branches, so that only their skips are left."""

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, fx
from torch.fx import Node

from trimtab.graph.analysis import attribute
from trimtab.graph.copying import copy_module
from trimtab.graph.depth.branches import Branch
from trimtab.graph.depth.memory import Memory
from trimtab.graph.network import Network
from trimtab.graph.values import bind, set_argument

aten = torch.ops.aten


def remove(network: Network, names: Iterable[str]) -> Network:
    """A new network without these branches: each addition gives its skip, and what only they used is gone.

    A branch inside another one that is removed may be named too. Numbers after "#" in the names of branches that are
    left may change. Raises: PlanError for an unknown name.
    """
    return without(network, [network.branch(name) for name in names])


def without(network: Network, branches: Iterable[Branch]) -> Network:
    """As `remove`, of branches that were found in `network` or in the one of which it is a cut."""
    operands = {branch.node: branch.operand for branch in branches}
    module = copy_module(network.module)
    graph, memory, before = module.graph, Memory(module.graph), _read(module)
    adds = [node for node in graph.nodes if node.name in operands]
    dead = _dead(graph, {add: _leave_skip(add, operands[add.name]) for add in adds}, memory)
    for node in reversed(list(graph.nodes)):
        if node in dead:
            graph.erase_node(node)
    called = {str(node.target) for node in graph.find_nodes(op="call_module")}
    for target in {str(node.target) for node in dead if node.op == "call_module"} - called:
        module.delete_submodule(target)
    for add in adds:
        if add not in dead:
            _bypass(add, operands[add.name], memory)
    _delete_unread(module, before)
    graph.lint()
    module.recompile()
    other = Network(module, copy.deepcopy(network.example))
    other.training = network.training
    return other


def silence(network: Network, branches: Iterable[Branch]) -> None:
    """Multiply, in place, what these branches add by zero: the reference of their removal."""
    operands = {branch.node: branch.operand for branch in branches}
    for add in [node for node in network.module.graph.nodes if node.name in operands]:
        operand = operands[add.name]
        with add.graph.inserting_before(add):
            zero = add.graph.call_function(aten.mul.Tensor, (bind(add)[operand], 0.0))
        zero.meta = dict(add.meta)
        set_argument(add, operand, zero)
    network.module.recompile()


def _leave_skip(add: Node, operand: str) -> Node:
    """Put the skip in the place of the branch's output, which is returned."""
    arguments = bind(add)
    added: Node = arguments[operand]
    set_argument(add, operand, arguments["self" if operand == "other" else "other"])
    return added


def _dead(graph: fx.Graph, added: Mapping[Node, Node], memory: Memory) -> set[Node]:
    """What led to nothing but these additions by what they added, and writes into no memory that is still seen."""
    touched, dead = set(added.values()), set[Node]()
    for node in reversed(graph.nodes):
        readers = [*node.users, *(reader for reader in memory.effects.get(node, ()) if reader not in added)]
        if node in touched and node.op != "placeholder" and all(reader in dead for reader in readers):
            dead.add(node)
            touched.update(node.all_input_nodes, memory.affected.get(node, ()))
    while seen := [node for node in dead if any(owner not in dead for owner in memory.written.get(node, ()))]:
        while seen:
            node = seen.pop()
            dead.discard(node)
            needed = (*node.all_input_nodes, *memory.affected.get(node, ()))
            seen += [item for item in needed if item in dead]
    return dead


def _bypass(add: Node, operand: str, memory: Memory) -> None:
    """Put the skip in the place of the addition; a copy of it where either was written into later."""
    skip: Node = bind(add)[operand]
    in_place = add.target is aten.add_.Tensor and operand == "other"
    if not in_place and any(memory.written_after(add, value) for value in (add, skip)):
        # Whoever made the skip, or reads it too, needs it as it is, be it in the backward pass only.
        with add.graph.inserting_before(add):
            copied = add.graph.call_function(aten.clone.default, (skip,))
        copied.meta = dict(add.meta)
        skip = copied
    add.replace_all_uses_with(skip)
    add.graph.erase_node(add)


def _read(module: fx.GraphModule) -> set[int]:
    """The identities of all attributes that the graph uses."""
    nodes = [node for node in module.graph.find_nodes(op="get_attr") if node.users]
    return {id(attribute(module, str(node.target))) for node in nodes}


def _delete_unread(module: fx.GraphModule, before: set[int]) -> None:
    """Delete what the graph read before and no longer reads, with what was beside it and never read (counters)."""
    after = _read(module)
    names = _tensor_attributes(module)
    owners = {name.rpartition(".")[0] for name, key in names.items() if key in before - after}
    in_use = {name.rpartition(".")[0] for name, key in names.items() if key in after} | {""}
    gone = [name for name, key in names.items() if key in before - after or name.rpartition(".")[0] in owners - in_use]
    for node in module.graph.find_nodes(op="get_attr"):
        if str(node.target) in set(gone):
            module.graph.erase_node(node)
    for name in gone:
        owner, _, last = name.rpartition(".")
        delattr(module.get_submodule(owner), last)
    _delete_empty(module, owners)


def _tensor_attributes(module: fx.GraphModule) -> dict[str, int]:
    """All names of parameters, buffers and constants of the graph, and the identities of what they name."""
    tensors: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
    tensors |= dict(module.named_buffers(remove_duplicate=False))
    for node in module.graph.find_nodes(op="get_attr"):
        value = attribute(module, str(node.target))
        if isinstance(value, Tensor):
            tensors[str(node.target)] = value
    return {name: id(tensor) for name, tensor in tensors.items()}


def _delete_empty(module: fx.GraphModule, paths: set[str]) -> None:
    """Delete those of these submodules, and of those that hold them, that hold nothing any more."""
    called = {str(node.target) for node in module.graph.find_nodes(op="call_module")}
    parts = [path.split(".") for path in paths if path]
    above = {".".join(names[:n]) for names in parts for n in range(1, len(names) + 1)}
    for path in sorted(above - called, key=len, reverse=True):
        child = module.get_submodule(path)
        constants = any(isinstance(value, Tensor) for value in vars(child).values())
        if not constants and not any((child._parameters, child._buffers, child._modules)):
            owner, _, last = path.rpartition(".")
            delattr(module.get_submodule(owner), last)
