"""The search space: units that are decided together, and the options of each, as data."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Annotated, NamedTuple

from pydantic import Field
from torch.fx import Node
from torch.utils._pytree import tree_leaves

from trimtab.graph import ChannelGroup, Layer, Network
from trimtab.graph.axes import resolve, size
from trimtab.graph.groups import terms_of
from trimtab.graph.values import bind
from trimtab.plan import Record, Scheme, Target
from trimtab.plan.plan import Solver

_WIDTHS = (1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125)

FLOAT_BITS, KERNEL_BITS = 32, 8
_PRICES = (1e-7, 1e-6, 4e-6, 1.6e-5, 6.4e-5)
"""Of a bit in an entropy-coded file: from as good as 8 bits to about one a weight."""

Terms = tuple[tuple[int, tuple[str, ...]], ...]
"""A polynomial in the widths of groups: sum of coefficient · product of the widths of the named groups."""


class Option(Record):
    """One choice for a unit: how many channels are kept, and how the layers it owns are stored (None: in float).

    With a `price` codes are found by rate and distortion, for an entropy-coded file; `stored_bits` is about what one
    spends on a weight. `loss` is what this choice alone does to the network's outputs: mean squared difference over
    variance.
    """

    kept: int
    weight: Scheme | None
    activation: Scheme | None
    price: float = 0.0
    stored_bits: float = FLOAT_BITS
    loss: float = 0.0

    @property
    def storage(self) -> "Storage":
        """How layers are stored."""
        return Storage(self.weight, self.activation, self.price)

    @property
    def bits(self) -> tuple[int, int]:
        """Of weights and activations; 32 of what is in float."""
        return bits_of(self.weight), bits_of(self.activation)

    @property
    def fineness(self) -> tuple[int, float]:
        """Orders ways to store: by bits, then by what they may cost in an entropy-coded file."""
        return sum(self.bits), -self.price

    @property
    def solved(self) -> bool:
        """Whether the nearest codes are not good enough: of fewer bits than kernels read, or paid for by the bit."""
        return self.weight is not None and (self.weight.bits < KERNEL_BITS or self.price > 0)


class Storage(NamedTuple):
    """How weights and activations are stored, and the price of a bit where codes are found by rate and distortion."""

    weight: Scheme | None
    activation: Scheme | None
    price: float = 0.0


WIDE = 1024
"""Inputs of a layer beyond which coordinate descent takes minutes."""


def solver_of(price: float, inputs: int) -> Solver:
    """What finds the codes of a layer with so many inputs, where the nearest are not good enough."""
    if price:
        return "rate_distortion"
    return "joint" if inputs <= WIDE else "gptq"


def bits_of(scheme: Scheme | None) -> int:
    """Bits of a value that is stored so."""
    return scheme.bits if scheme is not None else FLOAT_BITS


class Unit(Record):
    """What is decided at once: a channel group, with the layer that it alone decides about; a layer; or a branch.

    `order` ranks a group's channels from the most to the least important. Layers and branches have the width 1, and of
    a branch that is removed 0 is kept. `within` names the branches with which the unit disappears. `filling` tells how
    good estimated losses are: measured over estimated, for the pairs of which both are known.
    """

    name: str
    group: str | None = None
    branch: str | None = None
    width: int = 1
    order: tuple[int, ...] = (0,)
    layers: tuple[str, ...] = ()
    within: tuple[str, ...] = ()
    options: tuple[Option, ...]
    filling: tuple[float, ...] = ()


class LayerShape(Record):
    """What a layer's costs are computed from.

    `weights` counts its weights, `outputs` and `inputs` the two channel dimensions of its weight, `groups` those of a
    convolution (1 for everything else): they shrink with the width where the layer is depthwise. `owner` is the unit
    that decides how it is stored; `within` are the branches with which it disappears.
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
    within: tuple[str, ...] = ()


class Bits(NamedTuple):
    """Of weights, and of what is multiplied with them; `grid`: the weights', None for the kernels' own.

    `price`: of a bit in an entropy-coded file, as in a `LayerDecision`.
    """

    weights: int
    activations: int
    grid: str | None = None
    price: float = 0.0


def narrower(quantities: Collection[str], target: Target) -> tuple[Bits, ...]:
    """Bits besides those of the kernels that save something where these quantities are limited.

    Files store weights in few bits, BOPs count both sides. For these, weights of 2 bits have four levels: a symmetric
    grid has three, and is what fits into 2 bits of a file whatever the signs. Entropy-coded files gain by codes that
    are found for them; the bits of their grid only bound them.
    """
    found: list[Bits] = []
    if "stored_size" in quantities:
        found += [Bits(8, 8, price=price) for price in _PRICES]
    if "bops" in quantities:
        four = [Bits(2, activations, "affine") for activations in (3, 2)]
        found += [Bits(4, 8), Bits(4, 4), Bits(3, 4), Bits(3, 3), *four]
    elif "size" in quantities or ("drop" in quantities and not found):
        found += [Bits(bits, 8) for bits in target.stored_bits if 1 < bits < 8]
    return tuple(found)


def units_of(
    network: Network, target: Target, orders: Mapping[str, tuple[int, ...]], bits: Sequence[Bits] = ()
) -> list[Unit]:
    """Every decision about `network`, with storage in so many `bits` on offer too: units of groups, branches, layers.

    The storage of a layer is decided together with the one group that it writes, where no other layer writes that:
    their options are pairs. The layers of a residual stream have each a unit of their own.
    """
    writers: dict[str, list[Layer]] = {}
    for layer in unique_layers(network):
        for name in groups_in(network.terms(layer.weight, 0)):
            writers.setdefault(name, []).append(layer)
    alone = {
        name: layers[0] for name, layers in writers.items() if len(layers) == 1 and _writes_one(network, layers[0])
    }
    units = []
    for group in network.groups:
        owned = alone.get(group.name)
        parameters = {member.parameter for member in group.members if member.role != "buffer"}
        unit = Unit(
            name=group.name,
            group=group.name,
            width=group.width,
            order=orders[group.name],
            layers=() if owned is None else (owned.name,),
            within=tuple(b.name for b in network.branches if parameters <= {*b.parameters}),
            options=_options(widths_of(group, target), _schemes(owned, target, bits)),
        )
        units.append(unit)
    paired = {layer.name for layer in alone.values()}
    for layer in (layer for layer in unique_layers(network) if layer.name not in paired):
        options = _options((1,), _schemes(layer, target, bits))
        within = tuple(branch.name for branch in network.branches if layer.name in branch.layers)
        units.append(Unit(name=f"{layer.name} (storage)", layers=(layer.name,), within=within, options=options))
    for branch in network.branches:
        outside = tuple(other.name for other in network.branches if branch.name in other.inside)
        options = _options((1, 0), [Storage(None, None)])
        units.append(Unit(name=branch.name, branch=branch.name, within=outside, options=options))
    return units


def unique_layers(network: Network) -> list[Layer]:
    """The layers, one for each weight: a weight that is used several times is stored and decided once."""
    first: dict[str, Layer] = {}
    for layer in network.layers:
        first.setdefault(layer.weight, layer)
    return list(first.values())


def _writes_one(network: Network, layer: Layer) -> bool:
    """Whether all channels that a layer writes are of one group."""
    return len(groups_in(network.terms(layer.weight, 0))) == 1


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


def shapes_of(network: Network, units: Iterable[Unit]) -> list[LayerShape]:
    """The cost data of every layer, one for each weight."""
    owners = {name: unit.name for unit in units for name in unit.layers}
    return [shape_of(network, layer, owners[layer.name]) for layer in unique_layers(network)]


def shape_of(network: Network, layer: Layer, owner: str = "") -> LayerShape:
    """The cost data of a layer whose storage the unit `owner` decides."""
    weight = network.module.get_parameter(layer.weight)
    weights: Terms = ((1, ()),)
    for dim in range(weight.dim()):
        weights = _times(weights, network.terms(layer.weight, dim))
    return LayerShape(
        name=layer.name,
        operator=layer.operator,
        owner=owner,
        weights=weights,
        outputs=network.terms(layer.weight, 0),
        inputs=network.terms(layer.weight, 1),
        groups=_groups(network, layer),
        positions=sum(each.positions for each in network.layers if each.weight == layer.weight),
        geometry=_geometry(network, layer),
        within=tuple(branch.name for branch in network.branches if layer.name in branch.layers),
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


def _schemes(layer: Layer | None, target: Target, bits: Sequence[Bits]) -> list[Storage]:
    """Ways to store a layer: in float; as the target's kernels want it; and in fewer bits that they execute."""
    found = [Storage(None, None)]
    if layer is not None and layer.operator in target.schemes_by_operator:
        weight, activation = target.schemes_by_operator[layer.operator]
        found.append(Storage(weight, activation))
        for fewer in bits:
            grid = fewer.grid or weight.grid
            narrow = weight.model_copy(update={"bits": fewer.weights, "grid": grid})
            found.append(Storage(narrow, activation.model_copy(update={"bits": fewer.activations}), fewer.price))
    return found


def _options(widths: Iterable[int], storages: Sequence[Storage]) -> tuple[Option, ...]:
    """All pairs of a width and a way to store."""
    return tuple(Option(kept=width, **storage._asdict()) for width in widths for storage in storages)
