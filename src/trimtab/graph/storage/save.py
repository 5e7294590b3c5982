"""A network in one safetensors file, and back without the user's source: the graph is JSON in the file's header.

Nothing in the file is code: operators come from an allow-list (`stored.py`), and there is no pickle.
"""

import math
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, fx, nn
from torch.fx import Node
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.utils import _pytree as pytree

from trimtab.errors import ConfigError, NumericsError, TrimtabError
from trimtab.graph.analysis import attribute, owner_of
from trimtab.graph.modes import MARK
from trimtab.graph.network import Network
from trimtab.graph.source import of_node
from trimtab.graph.storage import stored
from trimtab.graph.storage.guard import dry_run
from trimtab.graph.storage.stored import Stored, StoredExample, StoredNode, StoredTensor
from trimtab.graph.values import bind
from trimtab.run import atomic_write
from trimtab.tasks.switches import quiet

_KEY = "trimtab.network"
EXAMPLE = "example:"
_MOST_BYTES = 2**27
"""Of all example inputs together: those that are not stored are drawn anew, whatever the file says of their size."""

_MOST_DIMENSIONS = 16
_FORMATS = {4: "channels_last", 5: "channels_last_3d"}
_PLACE = re.compile(r"([^:\n]+):(\d+) in (\S+)")


def save(network: Network, path: str | Path) -> None:
    """Write a network to one file, which `load` reads back exactly; an existing file is replaced atomically.

    Floating example inputs are not kept, only their shapes; integers and booleans are (they may be indices).
    Raises: ConfigError for a network that is not on the CPU, has fake-quantization or other modules in its graph, or
    has inputs or outputs other than tensors in dicts, lists and tuples; NumericsError for NaN.
    """
    header, numbers = describe(network)
    atomic_write(Path(path), to_bytes(numbers, metadata={_KEY: header.model_dump_json()}))


def describe(network: Network) -> tuple[Stored, dict[str, Tensor]]:
    """What `rebuild` takes: the graph, and the numbers by name (of tensors, and of example inputs that are kept)."""
    _check_savable(network)
    tensors = list(_tensors(network.module))
    leaves = pytree.tree_leaves(network.example)
    if (size := sum(leaf.nbytes for leaf in leaves)) > _MOST_BYTES:
        raise ConfigError(f"example inputs: at most {_MOST_BYTES} bytes can be saved, got {size}; capture with less")
    numbers = {t.name: _plain(attribute(network.module, t.name)) for t in tensors if t.same_as is None}
    examples = tuple(
        StoredExample(shape=tuple(t.shape), dtype=_dtype(t), stored=not t.is_floating_point()) for t in leaves
    )
    for i, leaf in enumerate(leaves):
        if examples[i].stored:
            numbers[f"{EXAMPLE}{i}"] = _plain(leaf)
    info = network.module.graph._codegen.pytree_info  # type: ignore[attr-defined]
    header = Stored(
        fingerprint=network.fingerprint,
        training=network.training,
        inputs=tuple(info.orig_args),
        in_tree=stored.dump_tree(info.in_spec, "inputs"),
        out_tree=stored.dump_tree(info.out_spec, "outputs"),
        example_tree=stored.dump_tree(pytree.tree_structure(network.example), "example inputs"),
        example=examples,
        tensors=tuple(tensors),
        nodes=tuple(_nodes(network.module)),
    )
    return header, numbers


def _check_savable(network: Network) -> None:
    for node in network.module.graph.find_nodes(op="call_module"):
        kind = type(network.module.get_submodule(str(node.target))).__name__
        raise ConfigError(
            f"node {node.name!r}: a {kind} inside the graph cannot be saved; save the network without it, "
            "beside its Plan, or lower it to an artifact"
        )
    tensors = dict((*network.named_parameters(), *network.named_buffers()))
    for name, tensor in tensors.items():
        if tensor.device.type != "cpu":
            raise ConfigError(f"{name}: must be on the CPU to be saved, is on {tensor.device}; call network.to('cpu')")
        _check_numbers(name, tensor)


def _check_numbers(name: str, tensor: Tensor) -> None:
    """A mask may hold -inf; NaN is never meant, and a parameter is finite."""
    bad = tensor.isnan() if not isinstance(tensor, nn.Parameter) else ~tensor.isfinite()
    if bad.any():
        what = "NaN or infinite" if isinstance(tensor, nn.Parameter) else "NaN"
        raise NumericsError(f"{name}: {int(bad.sum())} of {tensor.numel()} values are {what}; train or load it again")


def _tensors(module: fx.GraphModule) -> Iterator[StoredTensor]:
    """Every parameter, buffer and other tensor that the graph reads, under all names, in the modules' order."""
    kinds: dict[str, bool] = {}  # name -> persistent
    for prefix, child in module.named_modules(remove_duplicate=False):
        dot = f"{prefix}." if prefix else ""
        kinds |= {dot + name: True for name, found in child._parameters.items() if found is not None}
        left_out = child._non_persistent_buffers_set
        kinds |= {dot + name: name not in left_out for name, found in child._buffers.items() if found is not None}
    names = [*kinds, *(str(node.target) for node in module.graph.find_nodes(op="get_attr"))]
    first: dict[int, str] = {}
    for name in dict.fromkeys(names):
        stored.check_path(name, "network")
        tensor = attribute(module, name)
        if not isinstance(tensor, Tensor):
            raise ConfigError(f"{name}: a {type(tensor).__name__} in the graph cannot be saved; keep to tensors")
        parameter = isinstance(tensor, nn.Parameter)
        yield StoredTensor(
            name=name,
            kind="parameter" if parameter else "buffer" if name in kinds else "constant",
            persistent=kinds.get(name, True),
            requires_grad=tensor.requires_grad,
            same_as=first.get(id(tensor)),
            shape=tuple(tensor.shape),
            dtype=_dtype(tensor),
            memory_format=_memory_format(tensor),
        )
        first.setdefault(id(tensor), name)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _memory_format(tensor: Tensor) -> Any:
    name = _FORMATS.get(tensor.dim(), "")
    if name and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=getattr(torch, name)):
        return name
    return "contiguous_format"


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().clone()


def _nodes(module: fx.GraphModule) -> Iterator[StoredNode]:
    number = {node: i for i, node in enumerate(module.graph.nodes)}
    for node in number:
        where = f"node {node.name!r}"
        args: Any = stored.encode(list(node.args), number, where)
        place = of_node(node)
        yield StoredNode(
            op=node.op,
            name=node.name,
            target=stored.target_name(node) if node.op == "call_function" else str(node.target),
            args=tuple(args),
            kwargs={name: stored.encode(value, number, where) for name, value in node.kwargs.items()},
            switch=node.meta.get(MARK),
            source=place if _PLACE.fullmatch(place) else None,
        )


def load(path: str | Path) -> Network:
    """The network that `save` wrote: same outputs bit for bit, names, groups and fingerprint. Runs no code of the file.

    Raises: ConfigError that names the place for a file that is damaged, hostile, or newer than this trimtab;
    NumericsError for NaN.
    """
    header, numbers = _read(path)
    try:
        with quiet():
            return rebuild(header, numbers)
    except TrimtabError as error:
        raise type(error)(f"{path}: {error}") from error
    except Exception as error:  # torch builds and runs what the file says: anything may come
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"{path}: not a network: {type(error).__name__}: {reason}; give a file of network.save"
        ) from error


def _read(path: str | Path) -> tuple[Stored, dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            numbers = {name: file.get_tensor(name) for name in file.keys()} if _KEY in metadata else {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ConfigError(f"{path}: not a readable network file ({reason}); give a file of network.save") from error
    if _KEY not in metadata:
        raise ConfigError(f"{path}: holds tensors but no network; give a file of network.save")
    return stored.parse(metadata[_KEY], str(path)), numbers


def rebuild(header: Stored, numbers: Mapping[str, Tensor]) -> Network:
    """The network that `describe` described. Raises: TrimtabError; for what nobody described, whatever torch does."""
    _check_names(header, numbers)
    module = fx.GraphModule(nn.Module(), fx.Graph())
    for tensor in header.tensors:
        _attach(module, tensor, numbers)
    module.graph = _graph(header)
    example = _example(header, numbers)
    dry_run(module, example)
    network = Network(module, example)
    if header.fingerprint and network.fingerprint != header.fingerprint:
        raise ConfigError("fingerprint: the graph is not the one that was saved; save the network again")
    network.train(header.training)
    return network


def _check_names(header: Stored, numbers: Mapping[str, Tensor]) -> None:
    wanted = {tensor.name for tensor in header.tensors if tensor.same_as is None}
    wanted |= {f"{EXAMPLE}{i}" for i, example in enumerate(header.example) if example.stored}
    for name in sorted(wanted ^ set(numbers)):
        what = "is missing" if name in wanted else "is not of the network"
        raise ConfigError(f"tensor {name!r} {what}; save the network again")


def _attach(module: fx.GraphModule, entry: StoredTensor, numbers: Mapping[str, Tensor]) -> None:
    where = f"tensor {entry.name!r}"
    stored.check_path(entry.name, where)
    if entry.same_as is None:
        tensor = _checked(numbers[entry.name], entry, where)
        # A copy lies aligned, as the saved tensor did: some kernels round otherwise when it does not.
        tensor = tensor.clone(memory_format=getattr(torch, entry.memory_format))
        tensor = nn.Parameter(tensor, entry.requires_grad) if entry.kind == "parameter" else tensor
        _check_numbers(where, tensor)
    else:
        tensor = _checked(attribute(module, entry.same_as), entry, where)
    owner, last = owner_of(module, entry.name)
    if last in owner._parameters or last in owner._buffers or hasattr(owner, last):
        raise ConfigError(f"{where}: the name is taken; save the network again")
    match entry.kind:
        case "parameter" if isinstance(tensor, nn.Parameter):
            owner.register_parameter(last, tensor)
        case "buffer" if not isinstance(tensor, nn.Parameter):
            owner.register_buffer(last, tensor, persistent=entry.persistent)
        case "constant" if not isinstance(tensor, nn.Parameter):
            setattr(owner, last, tensor)
        case _:
            raise ConfigError(f"{where}: it is no {entry.kind}; save the network again")


def _checked(tensor: Any, entry: StoredTensor | StoredExample, where: str) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise ConfigError(f"{where}: it names no tensor; save the network again")
    came, said = f"{_dtype(tensor)} {list(tensor.shape)}", f"{entry.dtype} {list(entry.shape)}"
    if came != said:
        raise ConfigError(f"{where}: must be {said}, got {came}; save the network again")
    return tensor


def _graph(header: Stored) -> fx.Graph:
    graph = fx.Graph()
    graph.set_codegen(_codegen(header))
    names = {tensor.name for tensor in header.tensors}
    nodes: list[Node] = []
    for entry in header.nodes:
        nodes.append(_node(graph, entry, nodes, names))
    ops = [entry.op for entry in header.nodes]
    if ops.count("output") != 1 or ops[-1] != "output":
        raise ConfigError("graph: the last node, and no other, is the output; save the network again")
    graph.lint()
    info = graph._codegen.pytree_info  # type: ignore[attr-defined]
    for place, came, spec in (
        ("inputs", ops.count("placeholder"), info.in_spec),
        ("outputs", len(pytree.tree_leaves(nodes[-1].args[0])), info.out_spec),
    ):
        if came != spec.num_leaves:
            raise ConfigError(f"{place}: the graph has {came}, the structure {spec.num_leaves}; save the network again")
    return graph


def _codegen(header: Stored) -> _PyTreeCodeGen:
    stored.check_inputs(header.inputs, "inputs")
    placeholders = [entry.target for entry in header.nodes if entry.op == "placeholder"]
    stored.check_inputs(placeholders, "inputs")
    spec = stored.load_tree(header.in_tree, "inputs")
    out_spec = stored.load_tree(header.out_tree, "outputs")
    children = spec.children() if spec.type is tuple else []
    if [child.type for child in children] != [tuple, dict]:
        raise ConfigError("inputs: must be a tuple of positional and keyword inputs; save the network again")
    positional, keywords = children
    if list(header.inputs[positional.num_children :]) != keywords.context or (
        positional.num_children + keywords.num_children != len(header.inputs)
    ):
        raise ConfigError("inputs: their names do not fit their structure; save the network again")
    return _PyTreeCodeGen(_PyTreeInfo(list(header.inputs), spec, out_spec))


def _node(graph: fx.Graph, entry: StoredNode, before: Sequence[Node], tensors: set[str]) -> Node:
    where = f"node {entry.name!r:.80}"
    args = tuple(stored.decode(value, before, where) for value in entry.args)
    kwargs = {name: stored.decode(value, before, where) for name, value in entry.kwargs.items()}
    target: Any = entry.target
    match entry.op:
        case "get_attr" if entry.target not in tensors:
            raise ConfigError(f"{where}: no tensor {entry.target!r:.80} in the file; save the network again")
        case "call_function":
            target = stored.find_target(entry.target, where)
            _check_arguments(target, args, kwargs, where)
        case "output" if len(args) == 1 and not kwargs and entry.target == "output":
            pass
        case "placeholder" | "get_attr" if not args and not kwargs:
            pass
        case _:
            raise ConfigError(f"{where}: arguments do not fit its kind; save the network again")
    node = graph.create_node(entry.op, target, args, kwargs, name=entry.name)
    if node.name != entry.name or node.name == "self":
        raise ConfigError(f"{where}: the name is taken or no Python word; save the network again")
    _describe(node, entry, where)
    return node


def _check_arguments(target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], where: str) -> None:
    schema = getattr(target, "_schema", None)
    if schema is None:
        takes = 1 if target is operator.neg else 2
        fine = not kwargs and len(args) == takes and all(isinstance(arg, (Node, int, float)) for arg in args)
    else:
        known = {argument.name for argument in schema.arguments}
        fine = len(args) <= len(known) and set(kwargs) <= known
    if not fine:
        raise ConfigError(f"{where}: its operator does not take these arguments; save the network again")


def _describe(node: Node, entry: StoredNode, where: str) -> None:
    if entry.switch is not None:
        if not hasattr(node.target, "_schema") or not isinstance(bind(node).get(entry.switch), bool):
            raise ConfigError(f"{where}: no mode {entry.switch!r:.80} to switch; save the network again")
        node.meta[MARK] = entry.switch
    place = _PLACE.fullmatch(entry.source or "")
    if place is not None:
        node.meta["stack_trace"] = f'File "{place[1]}", line {place[2]}, in {place[3]}'


def _example(header: Stored, numbers: Mapping[str, Tensor]) -> Any:
    """Stored inputs as they are, the others drawn from a normal distribution, always the same."""
    generator = torch.Generator().manual_seed(0)
    left = _MOST_BYTES
    leaves = []
    for i, entry in enumerate(header.example):
        where = f"example input {i}"
        dtype = stored.torch_constant("dtype", entry.dtype, where)
        left -= _example_bytes(entry, dtype, where)
        if left < 0:
            raise ConfigError(f"{where}: all inputs must have at most {_MOST_BYTES} bytes; use fewer rows")
        if entry.stored:
            leaves.append(_checked(numbers[f"{EXAMPLE}{i}"], entry, where).clone())
        elif dtype.is_floating_point:
            leaves.append(torch.randn(entry.shape, generator=generator, dtype=dtype))
        else:
            raise ConfigError(f"{where}: {entry.dtype} must be stored; save the network again")
    spec = stored.load_tree(header.example_tree, "example inputs")
    if spec.num_leaves != len(leaves):
        raise ConfigError(f"example inputs: {len(leaves)} of {spec.num_leaves} are there; save the network again")
    if any(leaf.dim() == 0 or not 0 < leaf.shape[0] <= 64 for leaf in leaves):
        raise ConfigError("example inputs: dimension 0 must be the batch, of 1 to 64 rows; save the network again")
    return pytree.tree_unflatten(leaves, spec)


def _example_bytes(entry: StoredExample, dtype: torch.dtype, where: str) -> int:
    if len(entry.shape) > _MOST_DIMENSIONS:
        raise ConfigError(f"{where}: has at most {_MOST_DIMENSIONS} dimensions, got {len(entry.shape)}; use fewer")
    return math.prod(entry.shape) * dtype.itemsize
