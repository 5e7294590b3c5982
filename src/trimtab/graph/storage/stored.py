"""What a saved network's file says, as records, and how nodes and their arguments become JSON and are read back.

Reading trusts nothing: an operator comes from an allow-list, a name is a plain word, a reference points backwards.
"""

import json
import keyword
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, FailFast, Field, JsonValue
from torch._ops import OpOverload, OpOverloadPacket
from torch.fx import Node
from torch.utils import _pytree as pytree

from trimtab.errors import ConfigError
from trimtab.graph.rules import RULES
from trimtab.plan import Record

SCHEMA = 1

MOST_CHARACTERS, MOST_VALUES, MOST_NODES = 2**23, 2**18, 2**15
"""Of a header; of its JSON values; of nodes, and of tensors. Thirty times what a large network needs; without them, a
file of some megabytes is read in minutes and gigabytes."""

MOST_KEYS, MOST_ITEMS = 64, 4096
"""Of one object; of one list among a node's arguments."""

_NAMESPACES = ("aten", "trimtab")
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    f"operator.{name}": getattr(operator, name)
    for name in (
        "getitem",
        "add",
        "sub",
        "mul",
        "floordiv",
        "truediv",
        "mod",
        "neg",
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
    )
}
_FUNCTION_NAMES = {function: name for name, function in _FUNCTIONS.items()}
_KNOWN_PRIVATE = {"_assert_tensor_metadata", "_to_copy", "_unsafe_view", "_weight_norm", "_softmax", "_log_softmax"}
RESERVED = {"self", "torch", "fx_pytree", "pytree", "device", "inf", "nan", "NoneType"}
"""Words of the code that torch generates from a graph: an argument of that name would hide them."""

_OPERATOR = re.compile(r"([a-z]+)\.(\w+)\.(\w+)", re.ASCII)
_WORD = re.compile(r"[\w\-/: ]+")
_TREES = {"builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}


def _readable(schema: int) -> int:
    if schema != SCHEMA:
        raise ValueError(f"the file has schema {schema}, this trimtab reads {SCHEMA}; install a newer trimtab")
    return schema


Shape = Annotated[tuple[Annotated[int, Field(ge=0)], ...], FailFast()]


class StoredNode(Record):
    """A node. `switch` names the argument that follows the mode; `source` is the place in the user's code."""

    op: Literal["placeholder", "get_attr", "call_function", "output"]
    name: str
    target: str
    args: Annotated[tuple[JsonValue, ...], FailFast()] = ()
    kwargs: dict[str, JsonValue] = Field(default_factory=dict)
    switch: str | None = None
    source: str | None = None


class StoredTensor(Record):
    """A parameter or buffer, or another name (`same_as`) of one that came before."""

    name: str
    kind: Literal["parameter", "buffer", "constant"]
    persistent: bool = True
    requires_grad: bool = False
    same_as: str | None = None
    shape: Shape
    dtype: str
    memory_format: Literal["contiguous_format", "channels_last", "channels_last_3d"] = "contiguous_format"


class StoredExample(Record):
    """An example input. Integers and booleans are kept as they are (`stored`), floats are drawn anew."""

    shape: Shape
    dtype: str
    stored: bool


class Stored(Record):
    """A whole network but for the numbers. The trees are torch's own JSON of pytree specifications.

    `fingerprint`: "" where something else warrants that this is what was saved.
    """

    schema_version: Annotated[int, Field(alias="schema"), AfterValidator(_readable)] = SCHEMA
    fingerprint: str = ""
    training: bool
    inputs: Annotated[tuple[str, ...], FailFast()]
    in_tree: str
    out_tree: str
    example_tree: str
    example: Annotated[tuple[StoredExample, ...], FailFast()]
    tensors: Annotated[tuple[StoredTensor, ...], FailFast(), Field(max_length=MOST_NODES)]
    nodes: Annotated[tuple[StoredNode, ...], FailFast(), Field(max_length=MOST_NODES)]

    model_config = Record.model_config | {"serialize_by_alias": True}


def parse(text: str, where: str) -> Stored:
    """Read a header. Raises: ConfigError, before it takes much time or memory."""
    limited_json(text, where)
    return Stored.from_json(text, where=where)


def limited_json(text: str, where: str) -> Any:
    """The JSON of a header. Raises: ConfigError for what is none, or more than a network needs."""
    remedy = "save the network again"
    if len(text) > MOST_CHARACTERS or text.count(",") > MOST_VALUES:
        raise ConfigError(
            f"{where}: a header has at most {MOST_CHARACTERS} characters and {MOST_VALUES} values, "
            f"got {len(text)} and {text.count(',')}; {remedy}"
        )

    def few(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(pairs) > MOST_KEYS:
            raise ConfigError(f"{where}: an object has at most {MOST_KEYS} keys, got {len(pairs)}; {remedy}")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=few)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: its header is no JSON ({type(error).__name__}); {remedy}") from error


def encode(value: Any, number: Mapping[Node, int], where: str) -> JsonValue:
    """An argument as JSON: plain where JSON has it, else an object with one key that says what it is."""
    match value:
        case None | bool() | str() | int():
            return value
        case Node():
            return {"node": number[value]}
        case float():
            return value if math.isfinite(value) else {"float": str(value)}
        case tuple():
            return {"tuple": [encode(item, number, where) for item in value]}
        case list():
            return [encode(item, number, where) for item in value]
        case torch.dtype() | torch.layout() | torch.memory_format():
            return {type(value).__name__: str(value).removeprefix("torch.")}
        case torch.device():
            return {"device": str(value)}
    raise ConfigError(f"{where}: an argument of type {type(value).__name__} cannot be saved; compute it from tensors")


def decode(value: JsonValue, nodes: Sequence[Node], where: str) -> Any:
    """The argument that `encode` wrote. `nodes` are the nodes before this one. Raises: ConfigError."""
    if isinstance(value, list):
        if len(value) > MOST_ITEMS:
            raise ConfigError(
                f"{where}: a list has at most {MOST_ITEMS} items, got {len(value)}; save the network again"
            )
        return [decode(item, nodes, where) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise ConfigError(f"{where}: an argument is an object with one key, got {len(value)}; save the network again")
    ((tag, inner),) = value.items()
    match tag, inner:
        case "node", int() if not isinstance(inner, bool) and 0 <= inner < len(nodes):
            return nodes[inner]
        case "float", "inf" | "-inf" | "nan":
            return float(inner)
        case "tuple", list():
            return tuple(decode(inner, nodes, where))
        case (("dtype" | "layout" | "memory_format"), str()):
            return torch_constant(tag, inner, where)
        case "device", str() if re.fullmatch(r"[a-z]+(:\d{1,3})?", inner, re.ASCII):
            return torch.device(inner)
    raise ConfigError(f"{where}: cannot read the argument {json.dumps(value)[:80]}; save the network again")


def torch_constant(kind: str, name: str, where: str) -> Any:
    """`torch.<name>` when it is a constant of that kind. Raises: ConfigError."""
    found = vars(torch).get(name)
    if not isinstance(found, getattr(torch, kind)):
        raise ConfigError(f"{where}: unknown {kind} {name!r}; save the network again")
    return found


def target_name(node: Node) -> str:
    """The name of a node's operator, such as `aten.conv2d.default`. Raises: ConfigError when it is not on the list."""
    target: Any = node.target
    name = str(target) if isinstance(target, OpOverload) else _FUNCTION_NAMES.get(target, "")
    if not name:
        shown = getattr(target, "__name__", str(target))
        raise ConfigError(f"node {node.name!r}: operator {shown} cannot be saved; keep to operators of {_allowed()}")
    find_target(name, f"node {node.name!r}")
    return name


def find_target(name: str, where: str) -> Any:
    """The operator of that name. Raises: ConfigError for a namespace or operator that is not allowed."""
    if name in _FUNCTIONS:
        return _FUNCTIONS[name]
    match = _OPERATOR.fullmatch(name)
    if match is None or match[1] not in _NAMESPACES:
        raise ConfigError(f"{where}: operator {name!r:.80} is not allowed; a file may use {_allowed()}")
    packet = getattr(getattr(torch.ops, match[1]), match[2], None)
    if not isinstance(packet, OpOverloadPacket) or match[3] not in packet.overloads():
        raise ConfigError(f"{where}: unknown operator {name!r:.80}; install the torch version that saved the file")
    found = getattr(packet, match[3])
    if not _harmless(found, match[2]):
        raise ConfigError(f"{where}: operator {name!r:.80} is not allowed in a file; it reaches outside of tensors")
    return found


def _harmless(found: OpOverload, name: str) -> bool:
    """Of torch's dispatcher (TorchScript's own `save` is not), on no files, not private: those may skip checks."""
    public = not name.startswith("_") or name.startswith("__") or name in _KNOWN_PRIVATE or found in RULES
    files = any("file" in argument.name for argument in found._schema.arguments)
    return public and not files and bool(torch._C._dispatch_has_kernel(found.name()))


def _allowed() -> str:
    return f"{', '.join(_NAMESPACES)}, and {', '.join(_FUNCTIONS)}"


def check_path(path: str, where: str) -> None:
    """Whether a tensor's name is plain words joined by dots, none of them private to Python. Raises: ConfigError.

    It becomes code in quotes, so the characters are an allow-list.
    """
    for part in path.split("."):
        if not _WORD.fullmatch(part) or part.startswith("__"):
            raise ConfigError(
                f"{where}: a name is words joined by dots, without leading '__', got {path!r:.80}; rename"
            )


def check_inputs(names: Sequence[str], where: str) -> None:
    """Whether names can be arguments of a function. Raises: ConfigError."""
    for name in names:
        if not name.isidentifier() or keyword.iskeyword(name) or name in RESERVED or name.startswith("__"):
            raise ConfigError(f"{where}: an input's name is a Python word, got {name!r:.80}; rename the argument")
    if len(set(names)) != len(names):
        raise ConfigError(f"{where}: an input's name is given twice; rename one")


def dump_tree(spec: Any, where: str) -> str:
    """A pytree specification as JSON. Raises: ConfigError when it holds anything but dict, list and tuple."""
    remedy = "return a dict, list or tuple of tensors"
    try:
        text = pytree.treespec_dumps(spec)
    except (NotImplementedError, TypeError) as error:
        raise ConfigError(f"{where}: its structure cannot be saved ({error}); {remedy}") from error
    _check_tree(json.loads(text)[1], where, remedy)
    return text


def load_tree(text: str, where: str) -> Any:
    """The pytree specification that `dump_tree` wrote. Raises: ConfigError."""
    try:
        parsed = json.loads(text)
        if not isinstance(parsed, list) or len(parsed) != 2:
            raise ConfigError(f"{where}: not a structure; save the network again")
        _check_tree(parsed[1], where, "save the network again")
        return pytree.treespec_loads(text)
    except (ValueError, KeyError, TypeError, NotImplementedError, RecursionError) as error:
        raise ConfigError(f"{where}: not a structure ({type(error).__name__}); save the network again") from error


def _check_tree(tree: Any, where: str, remedy: str) -> None:
    if not isinstance(tree, dict) or set(tree) != {"type", "context", "children_spec"}:
        raise ConfigError(f"{where}: not a structure; {remedy}")
    kind, children = tree["type"], tree["children_spec"]
    if not isinstance(children, list):
        raise ConfigError(f"{where}: not a structure; {remedy}")
    if kind is not None and kind not in _TREES:
        raise ConfigError(f"{where}: only dict, list and tuple can be saved, got {str(kind)[:80]}; {remedy}")
    context = None if tree["context"] is None else json.loads(tree["context"])
    if kind in {"builtins.dict", "collections.OrderedDict"}:
        keys = {key for key in context if isinstance(key, str)} if isinstance(context, list) else set()
        if not isinstance(context, list) or not len(keys) == len(context) == len(children):
            raise ConfigError(f"{where}: keys of a dict must be distinct strings, got {context!r:.80}; {remedy}")
    elif context is not None or (kind is None and children):
        raise ConfigError(f"{where}: not a structure; {remedy}")
    for child in children:
        _check_tree(child, where, remedy)
