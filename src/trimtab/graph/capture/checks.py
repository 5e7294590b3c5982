"""What the caller gives is looked at, so that what cannot work is refused in one line, before and after the capture."""

import keyword

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.utils import _pytree as pytree

from trimtab.errors import CaptureError, NumericsError
from trimtab.graph.layers import OPERATORS
from trimtab.graph.network import Network
from trimtab.graph.storage.stored import RESERVED
from trimtab.graph.values import bind
from trimtab.tasks.task import Inputs


def check_module(model: nn.Module) -> None:
    """Whether the caller's module is one whose Python code can be run. Raises: CaptureError."""
    if not isinstance(model, nn.Module):
        kind = model.__name__ if isinstance(model, type) else type(model).__name__
        raise CaptureError(f"model: must be a torch.nn.Module, got {kind}; give an object of your class")
    for name, child in model.named_modules():
        if isinstance(child, torch.jit.ScriptModule):
            raise CaptureError(
                f"{name or type(model).__name__}: must be a module of Python code, got {type(child).__name__} of "
                "TorchScript; give the module that it was made from"
            )


def check_names(model: nn.Module) -> None:
    """Names become code: whether each can be, and leaves torch's own attributes alone. Raises: CaptureError."""
    taken = set(dir(fx.GraphModule)) | {"_graph", "meta", "_tracer_cls", "_tracer_extras"}
    names = {name: None for name, _ in model.named_modules(remove_duplicate=False)}
    names |= {name: None for name, _ in model.named_parameters(remove_duplicate=False)}
    names |= {name: None for name, _ in model.named_buffers(remove_duplicate=False)}
    for name in names:
        parts = name.split(".")
        rule = ""
        if any(keyword.iskeyword(part) for part in parts):
            rule = "a name must not be a Python keyword"
        elif parts[0] in taken:
            rule = f"the name {parts[0]!r} is an attribute of torch's graph modules"
        elif any(character in name for character in '"\\') or not name.isprintable():
            rule = "a name must be printable, without quotes or backslashes"
        if rule:
            raise CaptureError(
                f"{type(model).__name__}: {rule}, got {name!r}; rename it, for example with '_' at its end"
            )


def check_tensors(model: nn.Module) -> None:
    """Raises: CaptureError for tensors that cannot be cast to float64 or are not there yet, NumericsError for NaN."""
    for kind, tensors in (("parameter", model.named_parameters()), ("buffer", model.named_buffers())):
        for name, tensor in tensors:
            if isinstance(tensor, (UninitializedParameter, UninitializedBuffer)):
                raise CaptureError(f"{kind} {name!r}: has no shape yet; run the lazy module once on an example")
            if tensor.is_complex():
                raise CaptureError(
                    f"{kind} {name!r}: must be real, is {tensor.dtype}; keep torch.view_as_real of it, and "
                    "call torch.view_as_complex in forward"
                )
            if tensor.is_floating_point() and not _is_finite(tensor):
                count = int((~tensor.isfinite()).sum())
                raise NumericsError(
                    f"{kind} {name!r}: values must be finite, {count} of {tensor.numel()} are NaN or infinite; "
                    "load or train the model again"
                )


def _is_finite(tensor: Tensor) -> bool:
    """Whether all values are; NaN and infinity come through a sum, which is read faster than every value is judged."""
    return tensor.is_meta or bool(tensor.detach().sum().isfinite()) or bool(tensor.isfinite().all())


def rows_of(example: Inputs) -> int:
    """The batch size of the example. Raises: CaptureError."""
    leaves = pytree.tree_leaves(example)
    if not leaves or not all(isinstance(leaf, Tensor) for leaf in leaves):
        kinds = ", ".join(sorted({type(leaf).__name__ for leaf in leaves})) or "nothing"
        raise CaptureError(f"example inputs: must be tensors, got {kinds}; give a tensor, a tuple or a dict of tensors")
    if any(leaf.layout is not torch.strided or leaf.is_nested for leaf in leaves):
        raise CaptureError(
            "example inputs: must be dense tensors, got a sparse or nested one; call to_dense in forward"
        )
    if any(leaf.dim() == 0 for leaf in leaves):
        raise CaptureError("example inputs: dimension 0 must be the batch, got a tensor without dimensions; add one")
    sizes = {leaf.shape[0] for leaf in leaves}
    if len(sizes) > 1 or 0 in sizes:
        raise CaptureError(
            f"example inputs: dimension 0 must be the batch, the same and not 0, got {sorted(sizes)}; "
            "give every input as many rows"
        )
    return int(sizes.pop())


def check_inputs(module: fx.GraphModule, kind: str) -> None:
    """Inputs become arguments of generated code. Raises: CaptureError for one that hides a word of that code.

    A node that reads a parameter called `self` is renamed.
    """
    for node in module.graph.nodes:
        if node.name == "self":
            node._rename("self_")
    for name in module.graph._codegen.pytree_info.orig_args:  # type: ignore[attr-defined]
        if name in RESERVED:
            raise CaptureError(
                f"{kind}.forward: an input must not be called {name!r}, a word of the generated code; "
                f"rename the argument, for example to {name + '_'!r}"
            )


def check_types(network: Network) -> None:
    """Whether layers get numbers of their weights' type, which no fake tensor asks for. Raises: CaptureError."""
    for node in network.module.graph.nodes:
        if node.target not in OPERATORS:
            continue
        given, weight = (bind(node)[name].meta["val"].dtype for name in ("input", "weight"))
        if given != weight:
            raise CaptureError(
                f"{network.source(node)}: a {OPERATORS[node.target]} must get the type of its weight, {weight}, "
                f"got {given}; cast the example or the module"
            )
