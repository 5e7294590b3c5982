"""The description of a network in few bytes: JSON without what follows from the rest, deflated.

What `compact` leaves out, and `expand` puts back:

- the structure of inputs and outputs that are single tensors, one after the other; float32 among the types;
- a node that reads a tensor for one call: the call says `"@"` (the next tensor of the list) or `"@7"` in its place;
  `"<2"` is the value of the entry before the last, inputs being the first entries. Other strings begin with a quote;
- names that follow: a node's from its operator, a folded network's tensor's from its number.

`"first"` says that the nodes that read tensors all came first, as `capture` leaves them.

Where in the user's code a node came from is not kept.
"""

import builtins
import json
import keyword
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from torch.utils import _pytree as pytree

from trimtab.errors import ConfigError
from trimtab.graph.storage import stored
from trimtab.graph.storage.stored import Stored, StoredExample, StoredNode, StoredTensor
from trimtab.store.dictionary import DICTIONARY

_FLOAT = "float32"


@dataclass(frozen=True)
class Description:
    """A network without its numbers. `layers`: of a folded one, which layer (by the user's name) a node is."""

    header: Stored
    layers: Mapping[str, str] = field(default_factory=dict)


def tensor_name(number: int) -> str:
    """Of a folded network's tensor."""
    return f"t{number}"


def compact(it: Description) -> dict[str, Any]:
    """The description as JSON, as little as will do."""
    header = it.header
    shapes = [_shape(example) for example in header.example]
    inputs = [[name, *shape] for name, shape in zip(header.inputs, shapes, strict=False)]
    trees = {
        key: json.loads(getattr(header, key))
        for key, usual in _usual_trees(len(inputs)).items()
        if getattr(header, key) != usual
    }
    tensors = [[*_shape(tensor), *_rest_of(tensor, number)] for number, tensor in enumerate(header.tensors)]
    found: dict[str, Any] = {"inputs": inputs, "tensors": tensors, "nodes": list(_Compaction(it).entries())} | trees
    if len(shapes) > len(inputs):
        found["examples"] = shapes[len(inputs) :]
    if header.nodes == _reads_first(header.nodes, header.tensors):
        found["first"] = True
    return found


def expand(content: Any) -> Description:
    """The description that `compact` was given. Raises: ConfigError."""
    try:
        return _Expansion(content).description(content)
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError, ValidationError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(f"its header describes no network ({type(error).__name__}: {reason})") from error


def deflate(text: str) -> bytes:
    """The text in few bytes."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zdict=DICTIONARY)
    return packer.compress(text.encode()) + packer.flush()


def inflate(content: bytes) -> str:
    """What `deflate` was given. Raises: ConfigError for what it never made, or a text that is too long."""
    unpacker = zlib.decompressobj(-15, zdict=DICTIONARY)
    try:
        text = unpacker.decompress(content, stored.MOST_CHARACTERS).decode()
    except (zlib.error, UnicodeDecodeError) as error:
        raise ConfigError(f"its header cannot be inflated ({error})") from error
    if not unpacker.eof or unpacker.unused_data:
        raise ConfigError(f"its header is cut short, or inflates to more than {stored.MOST_CHARACTERS} characters")
    return text


class Names:
    """The names that torch would give to nodes, one after the other."""

    def __init__(self) -> None:
        self.taken: set[str] = set()
        self._numbers: Counter[str] = Counter()  # of each name, below which none is free

    def take(self, node: StoredNode) -> str:
        """The usual name of the next node."""
        name = self.usual(node.op, node.target)
        self.taken.add(name)
        return name

    def usual(self, op: str, target: str) -> str:
        """`conv2d`, `conv2d_1`, `dequantize_default`; `conv1_weight`; `x`, and `input_1`, as `input` is Python's."""
        if op == "output":
            return target
        if op != "call_function":
            return self._free(target.replace(".", "_"))
        space, *operator = target.split(".")
        return self._free(operator[0] if space != "trimtab" else "_".join(operator))

    def _free(self, base: str) -> str:
        reserved = keyword.iskeyword(base) or base in vars(builtins) or base in stored.RESERVED
        number = max(self._numbers[base], int(reserved))
        while (name := f"{base}_{number}" if number else base) in self.taken:
            number += 1
        self._numbers[base] = number
        return name


class _Compaction:
    """Nodes as entries."""

    def __init__(self, it: Description) -> None:
        self._nodes, self._layers = it.header.nodes, it.layers
        self._tensors = {tensor.name: number for number, tensor in enumerate(it.header.tensors)}
        self._readers = Counter(number for node in self._nodes for number in references([*node.args, node.kwargs]))
        self._names, self._next = Names(), 0
        inputs = (number for number, node in enumerate(self._nodes) if node.op == "placeholder")
        self._place = {number: place for place, number in enumerate(inputs)}  # of a node → of the entry with its value
        self._names.taken.update(self._nodes[number].name for number in self._place)

    def entries(self) -> Iterator[list[Any]]:
        """One for every node but inputs, and those that read a tensor for one call."""
        for number, node in enumerate(self._nodes):
            if node.op == "placeholder":
                continue
            usual = self._names.usual(node.op, node.target)
            if node.op != "get_attr" or self._readers[number] != 1 or node.name != usual:
                yield self._entry(node)
                self._place[number] = len(self._place)
            self._names.taken.add(node.name)

    def _entry(self, node: StoredNode) -> list[Any]:
        target = self._read(node) if node.op == "get_attr" else _short_target(node)
        args = [self._short(value) for value in node.args]
        rest = {
            "name": node.name if node.name != self._names.usual(node.op, node.target) else None,
            "kwargs": {name: self._short(value) for name, value in node.kwargs.items()},
            "switch": node.switch,
            "layer": self._layers.get(node.name),
        }
        rest = {key: value for key, value in rest.items() if value}
        return [{"": target, **rest} if rest else target, *args]

    def _short(self, value: Any) -> Any:
        match value:
            case list():
                return [self._short(item) for item in value]
            case str():
                return f"'{value}"
            case {"tuple": items}:
                return {"tuple": self._short(items)}
            case {"node": number} if number in self._place:
                return f"<{len(self._place) - self._place[number]}"
            case {"node": number}:
                return self._read(self._nodes[number])
        return value

    def _read(self, node: StoredNode) -> str:
        number = self._tensors[node.target]
        text = "@" if number == self._next else f"@{number}"
        self._next = number + 1
        return text


class _Expansion:
    """Entries as nodes."""

    def __init__(self, content: Any) -> None:
        self._tensors = [
            StoredTensor(**{"name": tensor_name(number), "kind": "buffer"} | _typed(entry))
            for number, entry in enumerate(content["tensors"])
        ]
        self._nodes: list[StoredNode] = []
        self._values: list[int] = []  # the node that gives each entry's value
        self._names, self._next = Names(), 0
        self._layers: dict[str, str] = {}
        for name, *_ in content["inputs"]:
            self._append(StoredNode(op="placeholder", name=self._names.usual("placeholder", name), target=name))
            self._values.append(len(self._nodes) - 1)
        for entry in content["nodes"]:
            self._entry(*entry)
            self._values.append(len(self._nodes) - 1)

    def description(self, content: Any) -> Description:
        """The whole."""
        inputs = [name for name, *_ in content["inputs"]]
        shapes = [shape for _, *shape in content["inputs"]] + content.get("examples", [])
        trees: dict[str, Any] = {
            key: json.dumps(content[key]) if key in content else usual
            for key, usual in _usual_trees(len(inputs)).items()
        }
        header = Stored(
            training=False,
            inputs=tuple(inputs),
            example=tuple(
                StoredExample(**_typed(entry), stored=not _is_float(_typed(entry)["dtype"])) for entry in shapes
            ),
            tensors=tuple(self._tensors),
            nodes=_reads_first(self._nodes, self._tensors) if content.get("first") else tuple(self._nodes),
            **trees,
        )
        return Description(header, self._layers)

    def _entry(self, first: Any, *args: Any) -> None:
        rest = first if isinstance(first, dict) else {"": first}
        target, name = rest[""], rest.get("name")
        if target.startswith("@"):
            self._read(target, name)
            return
        long = tuple(self._long(value) for value in args)
        kwargs = {key: self._long(value) for key, value in rest.get("kwargs", {}).items()}
        if target == "=":
            self._append(StoredNode(op="output", name="output", target="output", args=long, kwargs=kwargs))
            return
        target = _whole_target(target)
        name = name or self._names.usual("call_function", target)
        switch = rest.get("switch")
        self._append(StoredNode(op="call_function", name=name, target=target, args=long, kwargs=kwargs, switch=switch))
        if "layer" in rest:
            self._layers[name] = str(rest["layer"])

    def _append(self, node: StoredNode) -> None:
        self._names.taken.add(node.name)
        self._nodes.append(node)

    def _long(self, value: Any) -> Any:
        match value:
            case list():
                return [self._long(item) for item in value]
            case {"tuple": items}:
                return {"tuple": self._long(items)}
            case str() if value.startswith("'"):
                return value[1:]
            case str() if value.startswith("<"):
                distance = int(value[1:])
                if not 0 < distance <= len(self._values):
                    raise ValueError(f"entry {value} of {len(self._values)}")
                return {"node": self._values[-distance]}
            case str():
                self._read(value, None)
                return {"node": len(self._nodes) - 1}
        return value

    def _read(self, text: str, name: str | None) -> None:
        number = int(text.removeprefix("@")) if text != "@" else self._next
        if not 0 <= number < len(self._tensors):
            raise ValueError(f"tensor {number} of {len(self._tensors)}")
        self._next = number + 1
        tensor = self._tensors[number].name
        self._append(StoredNode(op="get_attr", name=name or self._names.usual("get_attr", tensor), target=tensor))


def _usual_trees(inputs: int) -> dict[str, str]:
    """Of a network with so many tensors as positional inputs, and one as output."""
    several = tuple([0] * inputs)
    usual = {"in_tree": (several, {}), "out_tree": 0, "example_tree": 0 if inputs == 1 else several}
    return {key: stored.dump_tree(pytree.tree_structure(each), key) for key, each in usual.items()}


def _shape(it: StoredExample | StoredTensor) -> list[Any]:
    return [*it.shape, *([it.dtype] if it.dtype != _FLOAT else [])]


def _rest_of(tensor: StoredTensor, number: int) -> list[Any]:
    rest = tensor.model_dump(exclude_defaults=True, exclude={"shape", "dtype"})
    usual = {"name": tensor_name(number), "kind": "buffer"}
    rest = {key: value for key, value in rest.items() if usual.get(key) != value}
    return [rest] if rest else []


def _typed(entry: Any) -> dict[str, Any]:
    """`[20, 1, 5, 5, "int8", {…}]` as fields."""
    sizes = [item for item in entry if isinstance(item, int)]
    words = [item for item in entry if isinstance(item, str)]
    found: dict[str, Any] = {"shape": tuple(sizes), "dtype": words[0] if words else _FLOAT}
    for item in entry:
        found |= item if isinstance(item, dict) else {}
    return found


def _is_float(dtype: str) -> bool:
    return bool(stored.torch_constant("dtype", dtype, "examples").is_floating_point)


def _short_target(node: StoredNode) -> str:
    return "=" if node.op == "output" else node.target.removeprefix("aten.").removesuffix(".default")


def _whole_target(short: str) -> str:
    space = "" if short.startswith(("trimtab.", "operator.")) else "aten."
    overload = "" if short.startswith("operator.") or (space + short).count(".") > 1 else ".default"
    return f"{space}{short}{overload}"


def _reads_first(nodes: Sequence[StoredNode], tensors: Sequence[StoredTensor]) -> tuple[StoredNode, ...]:
    """The nodes as `capture` leaves them: first those that read tensors, in the tensors' order."""
    number = {tensor.name: i for i, tensor in enumerate(tensors)}
    order = sorted(
        range(len(nodes)), key=lambda i: number[nodes[i].target] if nodes[i].op == "get_attr" else len(number)
    )
    moved = {old: new for new, old in enumerate(order)}

    def renumbered(value: Any) -> Any:
        match value:
            case list():
                return [renumbered(item) for item in value]
            case {"node": old}:
                return {"node": moved[old]}
            case {"tuple": items}:
                return {"tuple": renumbered(items)}
        return value

    return tuple(
        node.model_copy(
            update={
                "args": tuple(renumbered(value) for value in node.args),
                "kwargs": {key: renumbered(value) for key, value in node.kwargs.items()},
            }
        )
        for node in (nodes[i] for i in order)
    )


def references(value: Any) -> Iterator[int]:
    """The numbers of the nodes that encoded arguments name, in order."""
    match value:
        case {"node": number}:
            yield number
        case list():
            for item in value:
                yield from references(item)
        case dict():
            for item in value.values():
                yield from references(item)
