"""The search space: units that are decided together, and the options of each, as data."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

from pydantic import Field
from torch.fx import Node
from torch.utils._pytree import tree_leaves

from trimtab.errors import ConfigError
from trimtab.graph import ChannelGroup, Layer, Network
from trimtab.graph.axes import resolve, size
from trimtab.graph.groups import terms_of
from trimtab.graph.values import bind
from trimtab.plan import Record, Scheme, Target

_WIDTHS = (1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125)

Terms = tuple[tuple[int, tuple[str, ...]], ...]
"""A polynomial in the widths of groups: sum of coefficient · product of the widths of the named groups."""


class Option(Record):
    """One choice for a unit: how many channels are kept, and how the layers it owns are stored (None: in float).

    `loss` is what this choice alone does to the network's outputs: mean squared difference over variance.
    """

    kept: int
    weight: Scheme | None
    activation: Scheme | None
    loss: float = 0.0


class Unit(Record):
    """A channel group with the layers whose storage is decided with it; or, without a group, one layer of fixed width.

    `order` ranks the group's channels from the most to the least important.
    """

    name: str
    group: str | None
    width: int
    order: tuple[int, ...]
    layers: tuple[str, ...]
    options: tuple[Option, ...]


class LayerShape(Record):
    """What a layer's costs are computed from.

    `weights` counts its weights, `outputs` and `inputs` the two channel dimensions of its weight, `groups` those of a
    convolution (1 for everything else): they shrink with the width where the layer is depthwise.
    """

    name: str
    operator: str
    owner: str
    weights: Terms
    outputs: Terms
    inputs: Terms
    groups: Terms = ((1, ()),)
    positions: Annotated[int, Field(ge=1)]
    geometry: dict[str, tuple[int, ...]]


def units_of(network: Network, target: Target, orders: Mapping[str, tuple[int, ...]]) -> list[Unit]:
    """Every decision to be made about `network`: one unit a group, one a layer that no group owns."""
    owned: dict[str, list[Layer]] = {}
    for layer in unique_layers(network):
        owned.setdefault(owner_of(network, layer), []).append(layer)
    units = []
    for group in network.groups:
        layers = owned.pop(group.name, [])
        options = _options(widths_of(group, target), _schemes(layers, target))
        order = orders[group.name]
        units.append(_unit(group.name, group.name, group.width, order, layers, options))
    for name, layers in owned.items():
        units.append(_unit(name, None, 1, (0,), layers, _options((1,), _schemes(layers, target))))
    return units


def unique_layers(network: Network) -> list[Layer]:
    """The layers, one for each weight: a weight that is used several times is stored and decided once."""
    first: dict[str, Layer] = {}
    for layer in network.layers:
        first.setdefault(layer.weight, layer)
    return list(first.values())


def owner_of(network: Network, layer: Layer) -> str:
    """The unit that decides how a layer is stored: the one group that it writes, else the one that it reads."""
    outputs = groups_in(network.terms(layer.weight, 0))
    inputs = groups_in(network.terms(layer.weight, 1))
    if len(outputs) == 1:
        return outputs[0]
    if len(inputs) == 1:
        return inputs[0]
    return outputs[0] if outputs else f"{layer.name} (fixed width)"


def groups_in(terms: Terms) -> list[str]:
    """The groups that a polynomial depends on, in order of appearance."""
    return list(dict.fromkeys(name for _, names in terms for name in names))


def evaluate_terms(terms: Terms, widths: Mapping[str, int]) -> int:
    """The polynomial's value at these widths."""
    return sum(coefficient * math.prod(widths[name] for name in names) for coefficient, names in terms)


def widths_of(group: ChannelGroup, target: Target) -> tuple[int, ...]:
    """Widths worth trying, widest first: eighths of the group in multiples that the graph and the kernels want."""
    step = step_of(group, target)
    least = max(math.ceil(group.at_least / step), 1)
    rounded = {max(least, round(group.width * fraction / step)) * step for fraction in _WIDTHS}
    return (group.width, *sorted((w for w in rounded if w < group.width), reverse=True))


def step_of(group: ChannelGroup, target: Target) -> int:
    """What a width is a multiple of: what the graph insists on and, where the group is that wide, the kernels want."""
    kernels = target.channel_multiple // math.gcd(target.channel_multiple, group.unit_size)
    step = math.lcm(group.multiple_of, kernels)
    return step if step <= group.width else group.multiple_of


def shape_of(network: Network, layer: Layer) -> LayerShape:
    """The layer's cost data."""
    weight = network.module.get_parameter(layer.weight)
    weights: Terms = ((1, ()),)
    for dim in range(weight.dim()):
        weights = _times(weights, network.terms(layer.weight, dim))
    return LayerShape(
        name=layer.name,
        operator=layer.operator,
        owner=owner_of(network, layer),
        weights=weights,
        outputs=network.terms(layer.weight, 0),
        inputs=network.terms(layer.weight, 1),
        groups=_groups(network, layer),
        positions=sum(each.positions for each in network.layers if each.weight == layer.weight),
        geometry=_geometry(network, layer),
    )


def _groups(network: Network, layer: Layer) -> Terms:
    """The groups of a convolution are the leading axes of its output channels."""
    arguments = bind(_node(network, layer))
    if layer.operator != "convolution" or arguments["groups"] == 1:
        return ((1, ()),)
    axes = resolve(network.dims(layer.weight)[0])
    leading = next((axes[:n] for n in range(1, len(axes) + 1) if size(axes[:n]) == arguments["groups"]), None)
    if leading is None:
        return ((arguments["groups"], ()),)
    return terms_of(leading, {group.axis: group.name for group in network.groups})


def _geometry(network: Network, layer: Layer) -> dict[str, tuple[int, ...]]:
    """Rows a sample, and a convolution's spatial form: what a kernel's time depends on besides the widths."""
    node = _node(network, layer)
    arguments = bind(node)
    shape = tuple(int(s) for s in arguments["input"].meta["val"].shape)
    samples = len(tree_leaves(network.example)[0])
    kernel = tuple(network.module.get_parameter(layer.weight).shape[2:])
    if layer.operator != "convolution":
        return {"rows": (max(1, math.prod(shape[:-1]) // samples),)}

    def each(value: int | Sequence[int]) -> tuple[int, ...]:
        values = (value,) if isinstance(value, int) else tuple(value)
        return values * len(kernel) if len(values) == 1 else values

    dilation, padding = each(arguments["dilation"]), arguments["padding"]
    if isinstance(padding, str):
        padding = [d * (k - 1) // 2 if padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
    return {
        "rows": (max(1, shape[0] // samples),),
        "kernel": kernel,
        "size": shape[2:],
        "stride": each(arguments["stride"]),
        "padding": each(padding),
        "dilation": dilation,
    }


def _node(network: Network, layer: Layer) -> Node:
    return next(node for node in network.module.graph.nodes if node.name == layer.node)


def _times(a: Terms, b: Terms) -> Terms:
    """Product of two polynomials, equal monomials collected."""
    collected: dict[tuple[str, ...], int] = {}
    for ca, na in a:
        for cb, nb in b:
            names = tuple(sorted((*na, *nb)))
            collected[names] = collected.get(names, 0) + ca * cb
    return tuple((c, n) for n, c in collected.items())


def _schemes(layers: Iterable[Layer], target: Target) -> list[tuple[Scheme | None, Scheme | None]]:
    """Ways to store these layers: in float, and the pair (weight, activation) that the target executes for all."""
    found: list[tuple[Scheme | None, Scheme | None]] = [(None, None)]
    operators = {layer.operator for layer in layers}
    if operators and all(operator in target.schemes_by_operator for operator in operators):
        pairs = {target.schemes_by_operator[operator] for operator in operators}
        if len(pairs) > 1:
            raise ConfigError(
                f"target {target.name!r}: layers of one unit need one scheme, got several for {sorted(operators)}"
            )
        weight, activation = pairs.pop()
        found.append((weight, activation))
    return found


def _options(widths: Iterable[int], schemes: list[tuple[Scheme | None, Scheme | None]]) -> tuple[Option, ...]:
    """All pairs of a width and a way to store."""
    return tuple(Option(kept=w, weight=s, activation=a) for w in widths for s, a in schemes)


def _unit(
    name: str, group: str | None, width: int, order: tuple[int, ...], layers: list[Layer], options: tuple[Option, ...]
) -> Unit:
    return Unit(
        name=name, group=group, width=width, order=order, layers=tuple(layer.name for layer in layers), options=options
    )
