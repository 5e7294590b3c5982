"""A cut network's weights in a copy of the user's own class, proved by running both."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from trimtab.errors import CaptureError, ConfigError
from trimtab.graph.analysis import attribute
from trimtab.graph.capture.export import capture
from trimtab.graph.double import doubled
from trimtab.graph.network import Network
from trimtab.graph.source import of_error, of_node
from trimtab.graph.values import bind
from trimtab.graph.verify import TOLERANCE, compare, fresh_inputs
from trimtab.tasks.task import call

_REMEDY = "compute the size from the tensors there, or go on with the Network, which runs, saves and exports as it is"

_CASTS = {torch.ops.aten.to.dtype, torch.ops.aten._to_copy.default, torch.ops.aten.to.dtype_layout}
_NARROW = {torch.float32, torch.float16, torch.bfloat16}
_TOLERANCE_OF_CASTS = 1e-4
"""Largest difference, relative to the largest output or 1, for a class that casts to float32 or less on the way."""


def transplant(network: Network, model: nn.Module) -> nn.Module:
    """A copy of `model`, the module that was captured, with the parameters and buffers of the (cut) `network`.

    The sizes that torch's modules keep as attributes follow (`out_channels`, `groups`, `num_features`, `hidden_size`,
    …). The copy and the network are run in eval mode and float64 (in their own type when
    the class itself casts to a narrow one) on fresh inputs and must agree to rounding. Train and
    eval flags are the model's; the model itself stays as it is.
    Raises: ConfigError when the network is not of this class, or where the class has a size written into its code: the
    message names the file and line.
    """
    _check_plain(network)
    result = copy.deepcopy(model)
    _set_tensors(network, result)
    _set_sizes(network, result)
    _prove(network, model, result)
    return result


def _check_plain(network: Network) -> None:
    for node in network.module.graph.find_nodes(op="call_module"):
        kind = type(network.module.get_submodule(str(node.target))).__name__
        raise ConfigError(
            f"transplant: node {node.name!r} is a {kind}, for which the class has no place; "
            "transplant the network before fake-quantization, or lower it"
        )


def _set_tensors(network: Network, model: nn.Module) -> None:
    """Set every tensor of the network under its names; what is one tensor there is one tensor here."""
    names = dict.fromkeys(name for name, _ in network.module.named_parameters(remove_duplicate=False))
    names |= dict.fromkeys(name for name, _ in network.module.named_buffers(remove_duplicate=False))
    copies: dict[int, Tensor] = {}
    for name in names:
        source = attribute(network.module, name)
        there = _find(model, name)
        if there is None and not isinstance(source, nn.Parameter):
            continue  # a constant that the capture lifted out of the code
        if there is None or isinstance(source, nn.Parameter) != isinstance(there, nn.Parameter):
            raise ConfigError(
                f"transplant: {type(model).__name__} has no parameter {name!r}; give the module that was captured"
            )
        if id(source) not in copies:
            copies[id(source)] = _copied(source)
        owner, _, last = name.rpartition(".")
        setattr(model.get_submodule(owner), last, copies[id(source)])


def _find(model: nn.Module, name: str) -> Tensor | None:
    """The tensor of that name, or None."""
    try:
        found = attribute(model, name)
    except AttributeError:
        return None
    return found if isinstance(found, Tensor) else None


def _copied(tensor: Tensor) -> Tensor:
    new = tensor.detach().clone()
    return nn.Parameter(new, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new


def _set_sizes(network: Network, model: nn.Module) -> None:
    """Let the attributes of torch's own modules follow the shapes of their parameters."""
    calls = _calls(network)
    for name, module in model.named_modules():
        for kinds, sizes in _SIZES:
            if isinstance(module, kinds):
                for attribute_name, value in sizes(module, calls.get(name, {})).items():
                    setattr(module, attribute_name, value)
                break


def _calls(network: Network) -> dict[str, dict[str, Any]]:
    """Module name → arguments of the operator that reads its `weight`."""
    out: dict[str, dict[str, Any]] = {}
    for node in network.module.graph.nodes:
        if node.op != "call_function":
            continue
        arguments = bind(node)
        weight = arguments.get("weight")
        if isinstance(weight, Node) and weight.op == "get_attr":
            out.setdefault(str(weight.target).rpartition(".")[0], arguments)
    return out


def _convolution(module: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    groups = arguments.get("groups", module.groups)
    first, second = module.weight.shape[:2]
    if module.transposed:
        return {"groups": groups, "in_channels": first, "out_channels": second * groups}
    return {"groups": groups, "in_channels": second * groups, "out_channels": first}


def _linear(module: Any, _: Mapping[str, Any]) -> dict[str, Any]:
    return {"out_features": module.weight.shape[0], "in_features": module.weight.shape[1]}


def _batch_norm(module: Any, _: Mapping[str, Any]) -> dict[str, Any]:
    known = module.weight if module.weight is not None else module.running_mean
    return {} if known is None else {"num_features": known.shape[0]}


def _group_norm(module: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    if module.weight is None:
        return {}
    return {"num_channels": module.weight.shape[0], "num_groups": arguments.get("num_groups", module.num_groups)}


def _layer_norm(module: Any, _: Mapping[str, Any]) -> dict[str, Any]:
    return {} if module.weight is None else {"normalized_shape": tuple(module.weight.shape)}


def _embedding(module: Any, _: Mapping[str, Any]) -> dict[str, Any]:
    return {"num_embeddings": module.weight.shape[0], "embedding_dim": module.weight.shape[1]}


def _recurrent(module: Any, _: Mapping[str, Any]) -> dict[str, Any]:
    gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    calls = {name.removeprefix("weight_ih_"): w for name, w in module.named_parameters() if "weight_ih_" in name}
    hidden = {name: w.shape[0] // gates for name, w in calls.items()}
    outputs = {name: module.get_parameter(f"weight_hh_{name}").shape[1] for name in calls}
    for what, widths in (("units", hidden), ("outputs", outputs)):
        if len(set(widths.values())) > 1:
            raise ConfigError(
                f"transplant: torch's {type(module).__name__} has one number of {what} for all layers and directions, "
                f"the cut one has {', '.join(f'{name}: {n}' for name, n in widths.items())}; "
                "keep as many in each, or go on with the Network, which runs, saves and exports as it is"
            )
    sizes = {"input_size": module.weight_ih_l0.shape[1], "hidden_size": hidden["l0"]}
    return sizes | ({"proj_size": outputs["l0"]} if module.proj_size else {})


def _cell(module: Any, _: Mapping[str, Any]) -> dict[str, Any]:
    return {"input_size": module.weight_ih.shape[1], "hidden_size": module.weight_hh.shape[1]}


def _prelu(module: Any, _: Mapping[str, Any]) -> dict[str, Any]:
    return {"num_parameters": module.weight.shape[0]}


def _attention(module: Any, _: Mapping[str, Any]) -> dict[str, Any]:
    """Heads keep their width where the embedding allows it, else their number."""
    if module.in_proj_weight is None:
        return {}
    width = module.in_proj_weight.shape[1]
    heads = module.num_heads if width % module.head_dim else width // module.head_dim
    sizes = {"embed_dim": width, "kdim": width, "vdim": width}
    return sizes | {"num_heads": heads, "head_dim": width // heads}


_Sizes = Callable[[Any, Mapping[str, Any]], dict[str, Any]]

_SIZES: tuple[tuple[tuple[type[nn.Module], ...], _Sizes], ...] = (
    ((nn.modules.conv._ConvNd,), _convolution),
    ((nn.Linear,), _linear),
    ((nn.modules.batchnorm._NormBase,), _batch_norm),
    ((nn.GroupNorm,), _group_norm),
    ((nn.LayerNorm, nn.RMSNorm), _layer_norm),
    ((nn.Embedding, nn.EmbeddingBag), _embedding),
    ((nn.RNNBase,), _recurrent),
    ((nn.RNNCellBase,), _cell),
    ((nn.PReLU,), _prelu),
    ((nn.MultiheadAttention,), _attention),
)


def _prove(network: Network, model: nn.Module, result: nn.Module) -> None:
    """Run both. Raises: ConfigError that names the line where they part."""
    casts = _casts(network)
    reference, twin = network.clone().eval() if casts else doubled(network), copy.deepcopy(result).eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        inputs: Any = fresh_inputs(network)
        if casts:
            inputs = pytree.tree_map(lambda new, old: new.to(old.dtype), inputs, network.example)
        else:
            twin.to(torch.float64)
        expected = call(reference, inputs)
        try:
            output = call(twin, copy.deepcopy(inputs))
        except Exception as error:  # the user's code runs in there: anything may come
            where = _written_out(network, model, of_error(error)) or type(model).__name__
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise ConfigError(
                f"{where}: the class has a size written into its code and cannot run with the cut weights ({reason}); "
                f"{_REMEDY}"
            ) from error
    shapes = [
        [tuple(t.shape) for t in pytree.tree_leaves(found) if isinstance(t, Tensor)] for found in (output, expected)
    ]
    difference = compare(output, expected)[0] if shapes[0] == shapes[1] else float("inf")
    if not difference <= (_TOLERANCE_OF_CASTS if casts else TOLERANCE):
        _refuse_removed(network, model)
        where = _written_out(network, model, None) or type(model).__name__
        what = f"differ by {difference:.3g}" if shapes[0] == shapes[1] else f"have shapes {shapes[0]}, not {shapes[1]}"
        raise ConfigError(
            f"{where}: the class has a size written into its code, its outputs with the cut weights {what}; {_REMEDY}"
        )


def _refuse_removed(network: Network, model: nn.Module) -> None:
    """Raises: ConfigError when the class computes with a parameter that the network has no more."""
    there = dict(network.named_parameters())
    for name, _ in capture(model, network.example).named_parameters():
        if name not in there:
            raise ConfigError(
                f"transplant: {type(model).__name__} still has the branch of {name!r}, which was removed from the "
                "network; take it out of the class, or go on with the Network, which runs, saves and exports as it is"
            )


def _casts(network: Network) -> bool:
    """Whether the class casts to a narrow type by itself: then it cannot run in float64 from end to end."""
    nodes = (node for node in network.module.graph.nodes if node.target in _CASTS)
    return any(
        isinstance(value, torch.dtype) and value in _NARROW
        for node in nodes
        for value in (*node.args, *node.kwargs.values())
    )


def _written_out(network: Network, model: nn.Module, failed_at: str | None) -> str | None:
    """The line with a written-out size: where it failed, or the first operator whose constants the cut has changed."""
    try:
        before = {node.name: node for node in capture(model, network.example).module.graph.nodes}
    except CaptureError:
        return failed_at
    changed = []
    for node in network.module.graph.nodes:
        old = before.get(node.name)
        follows = "groups" in bind(node) if node.op == "call_function" else True
        if old is not None and old.target == node.target and not follows and _constants(old) != _constants(node):
            changed.append(of_node(old))
    return failed_at if failed_at in changed or not changed else changed[0]


def _constants(node: Node) -> list[Any]:
    leaves = pytree.tree_leaves((list(node.args), dict(node.kwargs)))
    return [leaf for leaf in leaves if isinstance(leaf, int) and not isinstance(leaf, bool)]
