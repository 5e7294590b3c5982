"""Names of a folded network's tensors: numbers in the file, in the graph what `fold` would have called them."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from trimtab.graph.storage.stored import Stored, StoredNode
from trimtab.store.header import Description, Names, references, tensor_name

_DEQUANTIZE, _QUANTIZE = "trimtab.dequantize.default", "trimtab.quantize.default"


class Numbered(NamedTuple):
    """A description whose tensors have numbers for names, in the order they are read in; `before`: the names then."""

    description: Description
    before: dict[str, str]


def numbered(it: Description) -> Numbered:
    """Call tensors by their numbers and nodes as torch would; leave out tensors that nothing reads."""
    tensors = {tensor.name: tensor for tensor in it.header.tensors}
    nodes = it.header.nodes
    reads = [
        nodes[k].target for node in nodes for k in references([*node.args, node.kwargs]) if nodes[k].op == "get_attr"
    ]
    first = [tensors[name].same_as or name for name in reads]
    names = {name: tensor_name(number) for number, name in enumerate(dict.fromkeys([*first, *reads]))}
    header = _renamed(it.header.model_copy(update={"tensors": tuple(tensors[name] for name in names)}), names)
    usual = Names()
    renamed = tuple(node.model_copy(update={"name": usual.take(node)}) for node in header.nodes)
    layers = {new.name: it.layers[old.name] for old, new in zip(nodes, renamed, strict=True) if old.name in it.layers}
    described = Description(header.model_copy(update={"nodes": renamed}), layers)
    return Numbered(described, {new: old for old, new in names.items()})


def named(it: Description) -> Stored:
    """The header with the names that lowering knows: `folded.conv2d.codes`, `fake_quantize.quantize_default.scale`."""
    names: dict[str, str] = {}
    for node in it.header.nodes:
        for read, leaf in _read_by(node, it):
            owner = "folded" if node.name in it.layers else "fake_quantize"
            names.setdefault(read.target, f"{owner}.{node.name}.{leaf}")
    return _renamed(it.header, names)


def roles(it: Description) -> dict[str, tuple[str, str]]:
    """By the name of a tensor: the layer that reads it (empty: it quantizes activations), and what it is there."""
    found: dict[str, tuple[str, str]] = {}
    for node in it.header.nodes:
        for read, leaf in _read_by(node, it):
            found.setdefault(read.target, (it.layers.get(node.name, ""), leaf))
    return found


def _renamed(header: Stored, names: Mapping[str, str]) -> Stored:
    def of(name: str | None) -> str | None:
        return None if name is None else names.get(name, name)

    tensors = tuple(t.model_copy(update={"name": of(t.name), "same_as": of(t.same_as)}) for t in header.tensors)
    nodes = tuple(
        node.model_copy(update={"target": of(node.target)}) if node.op == "get_attr" else node for node in header.nodes
    )
    return header.model_copy(update={"tensors": tensors, "nodes": nodes})


def _read_by(node: StoredNode, it: Description) -> Iterator[tuple[StoredNode, str]]:
    """The nodes by which a layer or a quantization reads tensors of its own, and what these are."""

    def giver(value: Any) -> StoredNode | None:
        match value:
            case {"node": int(number)} if 0 <= number < len(it.header.nodes):
                return it.header.nodes[number]
        return None

    found: dict[str, StoredNode | None] = {}
    if node.target == _QUANTIZE and len(node.args) == 3:
        found = {"scale": giver(node.args[1]), "zero": giver(node.args[2])}
    elif node.name in it.layers and len(node.args) > 1:
        weight = giver(node.args[1])
        while weight is not None and weight.op == "call_function" and weight.target != _DEQUANTIZE and weight.args:
            weight = giver(weight.args[0])
        found = {"weight": weight, "bias": giver(node.args[2]) if len(node.args) > 2 else None}
        if weight is not None and weight.target == _DEQUANTIZE:
            found |= zip(("codes", "scale", "zero"), map(giver, weight.args), strict=False)
    for leaf, read in found.items():
        if read is not None and read.op == "get_attr":
            yield read, leaf
