"""What a plan costs, as tensors over the options: bytes, MACs, BOPs, milliseconds."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from trimtab.search.allocate import Cost, Face, outer, whole
from trimtab.search.space import LayerShape, Option, Terms, Unit, bits_of, evaluate_terms, groups_in

_BYTES_A_CHANNEL = 8  # a float32 scale and a float32 bias
_BYTES_A_FLOAT_CHANNEL = 4  # the bias
_STORED_BYTES_A_CHANNEL = 3  # both, at the precision that `pack` keeps

MOST_COMBINED_UNITS = 3
"""A layer between more units than these is not timed at every combination of their widths."""


class Costs:
    """Costs of all combinations of the units' options."""

    def __init__(self, units: Sequence[Unit], layers: Sequence[LayerShape]) -> None:
        self.units, self.layers = list(units), list(layers)
        self._index = {unit.name: i for i, unit in enumerate(units)}
        self._whole = [whole(i, len(unit.options)) for i, unit in enumerate(units)]
        self._width = [_by_width(i, unit) for i, unit in enumerate(units)]

    def loss(self) -> Cost:
        """Sum of the options' own losses; what is in a branch that is removed loses nothing more."""
        cost = Cost()
        for i, unit in enumerate(self.units):
            losses = {i: np.array([option.loss for option in unit.options])}
            losses |= {self._index[name]: np.array([o.kept for o in self._unit(name).options]) for name in unit.within}
            cost.add(tuple(self._whole[u] for u in sorted(losses)), outer([losses[u] for u in sorted(losses)]))
        return cost

    def size(self) -> Cost:
        """Bytes of weights, scales and biases; what else is in a file is added by the profile as `overhead`."""
        return self._bytes(lambda option: bits_of(option.weight), _BYTES_A_CHANNEL)

    def stored_size(self) -> Cost:
        """About how many of these bytes are left in an entropy-coded file."""
        return self._bytes(lambda option: option.stored_bits, _STORED_BYTES_A_CHANNEL)

    def _bytes(self, bits: Callable[[Option], float], a_channel: int) -> Cost:
        cost = Cost()
        for layer in self.layers:
            self._add_terms(cost, layer, layer.weights, self._of_owner(layer, lambda option: bits(option) / 8))
            channels = self._of_owner(layer, lambda o: a_channel if o.weight else _BYTES_A_FLOAT_CHANNEL)
            self._add_terms(cost, layer, layer.outputs, channels)
        return cost

    def macs(self) -> Cost:
        """Multiply–accumulates of one sample."""
        cost = Cost()
        for layer in self.layers:
            self._add_terms(cost, layer, layer.weights, self._of_owner(layer, lambda _: layer.positions))  # noqa: B023
        return cost

    def bops(self) -> Cost:
        """MACs × weight bits × activation bits of one sample."""
        cost = Cost()
        for layer in self.layers:
            factor = self._of_owner(layer, lambda o: layer.positions * math.prod(o.bits))  # noqa: B023
            self._add_terms(cost, layer, layer.weights, factor)
        return cost

    def latency(self, table: Mapping[str, float]) -> Cost:
        """Sum of the times of single layers (`latency_table.key` → ms).

        A layer between up to three units is looked up for each combination; for more, time goes with its weights.
        """
        cost = Cost()
        for layer in self.layers:
            groups = groups_in(layer.weights)
            if len({*groups, layer.owner}) <= MOST_COMBINED_UNITS:
                faces = self._faces(layer, groups)
                cost.add(faces, self._times(layer, faces, table))
            else:
                full = {u.name: u.width for u in self.units}
                rate = 1 / evaluate_terms(layer.weights, full)
                factor = self._of_owner(layer, lambda o: rate * table[time_key(layer, full, o)])  # noqa: B023
                self._add_terms(cost, layer, layer.weights, factor)
        return cost

    def present(self) -> Cost:
        """How many layers are left."""
        cost = Cost()
        for layer in self.layers:
            self._add_terms(cost, layer, ((1, ()),), self._of_owner(layer, lambda _: 1))
        return cost

    def _times(self, layer: LayerShape, faces: tuple[Face, ...], table: Mapping[str, float]) -> np.ndarray:
        times = np.zeros([face.size for face in faces])
        for where in np.ndindex(*times.shape):
            chosen = {
                self.units[face.unit].name: self.units[face.unit].options[face.classes.index(place)]
                for face, place in zip(faces, where, strict=True)
            }
            widths = {name: option.kept for name, option in chosen.items()}
            if all(widths[branch] for branch in layer.within):
                times[where] = table[time_key(layer, widths, chosen[layer.owner])]
        return times

    def _faces(self, layer: LayerShape, groups: Sequence[str]) -> tuple[Face, ...]:
        """What a layer's cost sees: the owner's option, of the other units (groups and branches) the width alone."""
        owner = self._index[layer.owner]
        units = {self._index[name] for name in [*groups, *layer.within, layer.owner]}
        return tuple(self._whole[u] if u == owner else self._width[u] for u in sorted(units))

    def _unit(self, name: str) -> Unit:
        return self.units[self._index[name]]

    def _of_owner(self, layer: LayerShape, value: Callable[[Option], float]) -> np.ndarray:
        return np.array([value(option) for option in self.units[self._index[layer.owner]].options], dtype=float)

    def _add_terms(self, cost: Cost, layer: LayerShape, terms: Terms, of_owner: np.ndarray) -> None:
        """Add Σ coefficient · product of widths · factor(owner's option), where the layer is there."""
        for coefficient, groups in terms:
            faces = self._faces(layer, groups)
            named = Counter(self._index[name] for name in [*groups, *layer.within])
            vectors = []
            for face in faces:
                options = self.units[face.unit].options
                kept = np.array([options[face.classes.index(place)].kept for place in range(face.size)], dtype=float)
                own = face.unit == self._index[layer.owner]
                vectors.append(kept ** named[face.unit] * (coefficient * of_owner if own else 1.0))
            cost.add(faces, outer(vectors))


def time_key(layer: LayerShape, widths: Mapping[str, int], option: Option) -> str:
    """Names one kernel: operator, geometry, widths, integer or float. Equal kernels of different layers share a key."""
    geometry = ",".join(f"{name}={'x'.join(map(str, value))}" for name, value in sorted(layer.geometry.items()))
    sizes = (layer.inputs, layer.outputs, layer.groups)
    inputs, outputs, groups = (evaluate_terms(terms, widths) for terms in sizes)
    kind = "float" if option.activation is None else "integer"
    return f"{layer.operator},in={inputs},out={outputs},groups={groups},{kind},{geometry}"


def _by_width(number: int, unit: Unit) -> Face:
    """Options of the same width are alike."""
    places = {kept: i for i, kept in enumerate(dict.fromkeys(option.kept for option in unit.options))}
    return Face(number, tuple(places[option.kept] for option in unit.options))
