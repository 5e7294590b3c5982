"""A captured network: a trainable ATen graph whose parameters keep the user's names, and what may be cut in it."""

import copy
import difflib
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, fx, nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from trimtab.errors import PlanError
from trimtab.graph.analysis import Analysis, analyse, attribute, tensor_names
from trimtab.graph.axes import Dim, Freeze, constant
from trimtab.graph.copying import copy_module
from trimtab.graph.depth.branches import Branch, find_branches
from trimtab.graph.fingerprint import fingerprint
from trimtab.graph.groups import ChannelGroup, Frozen, ParamDim, Terms, find_groups, terms_of, units_of
from trimtab.graph.layers import Layer, find_layers
from trimtab.graph.modes import set_mode
from trimtab.graph.products import Product, find_products
from trimtab.graph.propagate import propagate
from trimtab.graph.source import of_node
from trimtab.tasks.task import Inputs


class Network:
    """The ATen training graph of a module, with example inputs.

    `module` owns parameters and buffers under the user's names; `example` has the batch as dimension 0 everywhere.
    Groups and frozen axes are analysed when first asked for, once; whoever rewires `module` by hand calls `refresh`.
    """

    def __init__(self, module: fx.GraphModule, example: Inputs) -> None:
        self.module = module
        self.example = example
        self.training = False
        self.refresh()

    def refresh(self) -> None:
        """Propagate shapes on the example again, and forget what was analysed."""
        for name in ("analysis", "_found", "layers", "branches", "fingerprint", "_names", "products"):
            self.__dict__.pop(name, None)
        propagate(self.module, move(self.example, self.device))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph; the output has the structure of the user's module's."""
        return self.module(*args, **kwargs)

    @property
    def device(self) -> torch.device:
        """Where the first parameter (or buffer) lies."""
        first = next(iter((*self.module.parameters(), *self.module.buffers())), None)
        return torch.device("cpu") if first is None else first.device

    @cached_property
    def analysis(self) -> Analysis:
        """Axes of every parameter, and the re-emissions; for this package's own use."""
        return analyse(self.module)

    @cached_property
    def _found(self) -> tuple[tuple[ChannelGroup, ...], tuple[Frozen, ...]]:
        return find_groups(self.analysis)

    @property
    def groups(self) -> tuple[ChannelGroup, ...]:
        """What may be cut, in graph order."""
        return self._found[0]

    @cached_property
    def products(self) -> tuple[Product, ...]:
        """Dimensions that are products of groups: of (heads, what a head holds), shares multiply."""
        return find_products(self.analysis, self._names)

    @property
    def frozen(self) -> tuple[Frozen, ...]:
        """What a layer produces and may not be cut, with the reason."""
        return self._found[1]

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """Every call of a convolution or linear with a weight parameter, in graph order."""
        return find_layers(self.module)

    @cached_property
    def branches(self) -> tuple[Branch, ...]:
        """Every residual branch with parameters of its own, in graph order: a nested one before what holds it."""
        return find_branches(self.module)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) over operators, wiring, constants, names, shapes and dtypes; not over values."""
        return fingerprint(self.module)

    def group(self, name: str) -> ChannelGroup:
        """The group of that name. Raises: PlanError that lists near matches."""
        return _named("group", name, {group.name: group for group in self.groups})

    def layer(self, name: str) -> Layer:
        """The layer of that name. Raises: PlanError that lists near matches."""
        return _named("layer", name, {layer.name: layer for layer in self.layers})

    def branch(self, name: str) -> Branch:
        """The residual branch of that name. Raises: PlanError that lists near matches."""
        return _named("branch", name, {branch.name: branch for branch in self.branches})

    def units(self, group: ChannelGroup | str, param_dim: ParamDim) -> Tensor:
        """The unit (0..width-1) of `group` at each position of a dimension (long), -1 where none is."""
        atom = (self.group(group) if isinstance(group, str) else group).axis
        return units_of(atom, self.dims(param_dim.parameter)[param_dim.dim])

    def terms(self, parameter: str, dim: int) -> Terms:
        """The size of a dimension as a sum of coefficient × product of the widths of the named groups."""
        return terms_of(self.dims(parameter)[dim], self._names)

    @cached_property
    def _names(self) -> dict[Any, str]:
        return {group.axis: group.name for group in self.groups}

    def dims(self, parameter: str) -> tuple[Dim, ...]:
        """The axes of a parameter's or buffer's dimensions. Raises: PlanError for an unknown name."""
        known = tensor_names(self.module)
        try:
            tensor = attribute(self.module, parameter)
        except AttributeError:
            raise _unknown("parameter", parameter, known.values()) from None
        if id(tensor) in self.analysis.tensors:
            return self.analysis.tensors[id(tensor)]
        why = Freeze(operator="get_attr", reason="nothing uses it", source=parameter)
        return tuple(constant(n, why) for n in tensor.shape)

    def source(self, node: Node) -> str:
        """`file.py:12 in forward` of the user's code that made `node`, or the node's name."""
        return of_node(node)

    def train(self, mode: bool = True) -> Self:
        """Switch batch norm and dropout nodes, and inserted modules; the graph is recompiled only when one changed."""
        set_mode(self.module, mode)
        self.training = mode
        return self

    def eval(self) -> Self:
        """`train(False)`."""
        return self.train(False)

    def clone(self) -> "Network":
        """A deep copy that shares nothing."""
        other = Network.__new__(Network)  # not propagated again: a copied graph keeps its shapes
        other.module, other.example = copy_module(self.module), copy.deepcopy(self.example)
        other.training = self.training
        return other

    def parameters(self) -> Iterator[nn.Parameter]:
        """Every parameter once."""
        return self.module.parameters()

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Every parameter once, under its first name."""
        return self.module.named_parameters()

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """Every buffer once, under its first name."""
        return self.module.named_buffers()

    def state_dict(self) -> dict[str, Tensor]:
        """All parameters and persistent buffers by name."""
        return dict(self.module.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy values in; every name must be there."""
        self.module.load_state_dict(state)

    def save(self, path: str | Path) -> None:
        """Write the network to one safetensors file that `trimtab.load` reads without the user's source."""
        from trimtab.graph.storage.save import save  # that module is made of networks

        save(self, path)

    def dequantize(self) -> "Network":
        """A float network whose weights are what this one rounds them to; nothing in it rounds any more.

        What was removed stays removed. Raises: PlanError while gates of a penalty are on the weights.
        """
        from trimtab.graph.dequantize import dequantize  # that module is made of networks

        return dequantize(self)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move or cast parameters and buffers in place, as `nn.Module.to`; floating example inputs follow the dtype."""
        self.module.to(*args, **kwargs)
        dtype = next((a for a in (*args, *kwargs.values()) if isinstance(a, torch.dtype)), None)
        if dtype is not None:
            self.example = pytree.tree_map(lambda t: t.to(dtype) if t.is_floating_point() else t, self.example)
        self.refresh()
        return self


def move(example: Inputs, device: torch.device) -> Any:
    """The example on a device."""
    return pytree.tree_map(lambda t: t.to(device), example)


def _named(kind: str, name: str, known: Mapping[str, Any]) -> Any:
    if name not in known:
        raise _unknown(kind, name, known)
    return known[name]


def _unknown(kind: str, name: str, known: Iterable[str]) -> PlanError:
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names[:5]
    there = f"near matches: {', '.join(near)}" if near else f"this network has no {kind}"
    return PlanError(f"unknown {kind} {name!r}; {there}")
