"""From the user's module to a `Network`, through `torch.export`."""

import inspect
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.utils import _pytree as pytree

from trimtab.errors import CaptureError
from trimtab.graph.analysis import attribute
from trimtab.graph.capture.checks import check_inputs, check_module, check_names, check_tensors, check_types, rows_of
from trimtab.graph.capture.inline import inline_regions
from trimtab.graph.capture.masks import masks_to_positions
from trimtab.graph.capture.recurrent import unstack_recurrent
from trimtab.graph.copying import copy_module
from trimtab.graph.modes import mark_switches
from trimtab.graph.network import Network
from trimtab.graph.source import of_error, of_node
from trimtab.graph.unrolled import not_unrolled
from trimtab.tasks.switches import quiet
from trimtab.tasks.task import Inputs

MOST_ROWS = 7
"""Rows of the example that are kept: enough to tell a batch from a channel count, cheap to run."""


def capture(model: nn.Module, example: Inputs) -> Network:
    """Capture a module as an ATen graph, in eval mode, with dimension 0 of every input dynamic.

    `example` is a tensor, a tuple (positional) or a dict (keywords); its rows are cut or repeated to an odd number from
    3 to 7. The module is left as it was; the network's parameters are copies.
    Raises: CaptureError naming the user's file and line, NumericsError for NaN or infinity in a parameter or buffer.
    """
    check_module(model)
    check_names(model)
    check_tensors(model)
    rows = rows_of(example)
    inputs = resize(example, 3 if rows < 3 else min(rows - 1 + rows % 2, MOST_ROWS))
    with eval_for_a_moment(model):
        program = _export(model, inputs)
    module = copy_module(program.module(check_guards=False))
    check_inputs(module, type(model).__name__)
    inline_regions(module)
    unstack_recurrent(module)
    _drop_assertions(module)
    _views_as_reshapes(module)
    masks_to_positions(module)
    _drop_unused(module)
    mark_switches(module)
    network = Network(module, inputs)
    check_types(network)
    return network


def _drop_assertions(module: fx.GraphModule) -> None:
    """Remove the assertions on dtypes that export adds before casts: a network may be cast as a whole."""
    for node in module.graph.find_nodes(op="call_function", target=torch.ops.aten._assert_tensor_metadata.default):
        module.graph.erase_node(node)
    module.recompile()


def _views_as_reshapes(module: fx.GraphModule) -> None:
    """A reshape is a view where it can be, and takes channels-last tensors too, on which convolutions are faster."""
    for node in module.graph.find_nodes(op="call_function", target=torch.ops.aten.view.default):
        node.target = torch.ops.aten.reshape.default
    module.recompile()


def _drop_unused(module: fx.GraphModule) -> None:
    """Remove what no output depends on, with the parameters and buffers that only training reads (auxiliary heads)."""
    module.graph.eliminate_dead_code()
    read = {id(attribute(module, str(node.target))) for node in module.graph.find_nodes(op="get_attr")}
    for owner in module.modules():
        for table in (owner._parameters, owner._buffers):
            for name in [name for name, tensor in table.items() if id(tensor) not in read]:
                delattr(owner, name)
    module.recompile()


def resize(example: Inputs, rows: int) -> Inputs:
    """The example's rows, repeated or dropped to a number."""

    def pick(tensor: Tensor) -> Tensor:
        return tensor.detach()[torch.arange(rows, device=tensor.device) % tensor.shape[0]].clone()

    return pytree.tree_map(pick, example)


@contextmanager
def eval_for_a_moment(model: nn.Module) -> Iterator[None]:
    """Every submodule in eval mode; afterwards flags, attributes and the random state are what they were."""
    saved = [(module, dict(vars(module))) for module in model.modules()]
    inner = [(vars(module)[name], dict(vars(module)[name])) for module, _ in saved for name in _TABLES]
    lists = [(value, list(value)) for _, attrs in saved for value in attrs.values() if isinstance(value, list)]
    try:
        for module, _ in saved:
            module.training = False
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module, attributes in saved:
            vars(module).clear()
            vars(module).update(attributes)
        for table, entries in inner:
            table.clear()
            table.update(entries)
        for values, items in lists:
            values[:] = items


_TABLES = ("_parameters", "_buffers", "_modules")


def _export(model: nn.Module, inputs: Inputs) -> ExportedProgram:
    try:
        return _run_export(model, inputs, Dim.DYNAMIC)
    except Exception as error:
        raise _explain(model, inputs, error) from error


def _run_export(model: nn.Module, inputs: Inputs, batch: Any) -> ExportedProgram:
    args, kwargs = as_call(inputs)
    shapes: Any = ShapesCollection()
    for leaf in pytree.tree_leaves(inputs):
        shapes[leaf] = {0: batch}
    with quiet(), not_unrolled(), _named_keywords(model, kwargs):
        return torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)


@contextmanager
def _named_keywords(model: nn.Module, names: Collection[str]) -> Iterator[None]:
    """For a moment, a forward with `**kwargs` names them: torch.export loses count of the others' sizes."""
    forward = model.forward
    if "forward" in vars(model) or set(names) <= set(inspect.signature(forward).parameters):
        yield
        return

    def named(**kwargs: Any) -> Any:
        return forward(**kwargs)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    named.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in names])  # type: ignore[attr-defined]
    vars(model)["forward"] = named
    try:
        yield
    finally:
        del vars(model)["forward"]


def as_call(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)), {}


def _explain(model: nn.Module, inputs: Inputs, error: Exception) -> CaptureError:
    text = str(error)
    kind = type(model).__name__
    if "specialized" in text or "Constraints violated" in text:
        where = _where_specialized(model, inputs) or kind
        return CaptureError(
            f"{where}: the batch size must stay free, but the code fixes it to the example's; "
            "use x.shape[0] or -1 in place of a number, and no Python loop over the batch"
        )
    where = of_error(error) or kind
    if "data-dependent" in text:
        return CaptureError(
            f"{where}: control flow depends on the values of a tensor, which a graph cannot hold; "
            "use torch.where, or decide it by a constructor argument"
        )
    reason = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    reason = re.sub(r"\s+", " ", reason)[:200]
    return CaptureError(
        f"{where}: cannot be captured by torch.export: {type(error).__name__}: {reason}; "
        "keep to tensor operations in forward, and check that the example fits it"
    )


def _where_specialized(model: nn.Module, inputs: Inputs) -> str | None:
    """Where the graphs of two batch sizes part: there a size became a constant."""
    rows = rows_of(inputs)
    graphs = []
    for n in (rows, rows + 2):
        try:
            graphs.append(_run_export(model, resize(inputs, n), Dim.AUTO).module(check_guards=False).graph)
        except Exception as error:  # noqa: BLE001  the user's code runs in there: anything may come
            return of_error(error)
    for a, b in zip(graphs[0].nodes, graphs[1].nodes, strict=False):
        if (a.target, str(a.args), str(a.kwargs)) != (b.target, str(b.args), str(b.kwargs)):
            return of_node(b if a.op == "output" else a)
    return None
