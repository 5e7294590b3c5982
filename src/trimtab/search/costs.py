"""What a plan costs, as tensors over the options: bytes, MACs, BOPs, milliseconds."""

from collections.abc import Mapping, Sequence

import numpy as np

from trimtab.plan import Scheme
from trimtab.search.allocate import Cost, outer
from trimtab.search.space import LayerShape, Option, Terms, Unit, evaluate_terms, groups_in

_FLOAT_BITS = 32
_BYTES_A_CHANNEL = 8  # a float32 scale and a float32 bias
_BYTES_A_FLOAT_CHANNEL = 4  # the bias

MOST_COMBINED_UNITS = 3
"""A layer between more units than these is not timed at every combination of their widths."""


class Costs:
    """Costs of all combinations of the units' options."""

    def __init__(self, units: Sequence[Unit], layers: Sequence[LayerShape]) -> None:
        self.units, self.layers = list(units), list(layers)
        self._index = {unit.name: i for i, unit in enumerate(units)}

    def loss(self) -> Cost:
        """Sum of the options' own losses."""
        cost = Cost()
        for i, unit in enumerate(self.units):
            cost.add((i,), np.array([option.loss for option in unit.options]))
        return cost

    def size(self) -> Cost:
        """Bytes of weights, scales and biases; what else is in a file is added by the profile as `overhead_bytes`."""
        cost = Cost()
        for layer in self.layers:
            bits = self._of_owner(layer, lambda option: _bits(option.weight) / 8)
            self._add_terms(cost, layer, layer.weights, bits)
            channels = self._of_owner(layer, lambda o: _BYTES_A_CHANNEL if o.weight else _BYTES_A_FLOAT_CHANNEL)
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
            factor = self._of_owner(layer, lambda o: layer.positions * _bits(o.weight) * _bits(o.activation))  # noqa: B023
            self._add_terms(cost, layer, layer.weights, factor)
        return cost

    def latency(self, table: Mapping[str, float]) -> Cost:
        """Sum of the times of single layers (`latency_table.key` → ms).

        A layer between up to three units is looked up for each combination; for more, time goes with its weights.
        """
        cost = Cost()
        for layer in self.layers:
            units = self._units_of(layer, groups_in(layer.weights))
            if len(units) <= MOST_COMBINED_UNITS:
                cost.add(units, self._times(layer, units, table))
            else:
                full = {u.name: u.width for u in self.units}
                rate = 1 / evaluate_terms(layer.weights, full)
                factor = self._of_owner(layer, lambda o: rate * table[time_key(layer, full, o)])  # noqa: B023
                self._add_terms(cost, layer, layer.weights, factor)
        return cost

    def _times(self, layer: LayerShape, units: tuple[int, ...], table: Mapping[str, float]) -> np.ndarray:
        times = np.zeros([len(self.units[u].options) for u in units])
        for where in np.ndindex(*times.shape):
            chosen = {self.units[u].name: self.units[u].options[o] for u, o in zip(units, where, strict=True)}
            widths = {name: option.kept for name, option in chosen.items()}
            times[where] = table[time_key(layer, widths, chosen[layer.owner])]
        return times

    def _units_of(self, layer: LayerShape, groups: Sequence[str]) -> tuple[int, ...]:
        return tuple(sorted({self._index[name] for name in [*groups, layer.owner]}))

    def _of_owner(self, layer: LayerShape, value: object) -> np.ndarray:
        assert callable(value)
        return np.array([value(option) for option in self.units[self._index[layer.owner]].options], dtype=float)

    def _add_terms(self, cost: Cost, layer: LayerShape, terms: Terms, of_owner: np.ndarray) -> None:
        """Add Σ coefficient · product of widths · factor(owner's option)."""
        owner = self._index[layer.owner]
        for coefficient, groups in terms:
            units = self._units_of(layer, groups)
            values = {u: np.ones(len(self.units[u].options)) for u in units}
            for name in groups:
                u = self._index[name]
                values[u] = values[u] * np.array([option.kept for option in self.units[u].options])
            values[owner] = values[owner] * of_owner * coefficient
            cost.add(units, outer(units, values))


def time_key(layer: LayerShape, widths: Mapping[str, int], option: Option) -> str:
    """Names one kernel: operator, geometry, widths and bits. Equal kernels of different layers share a key."""
    geometry = ",".join(f"{name}={'x'.join(map(str, value))}" for name, value in sorted(layer.geometry.items()))
    sizes = (layer.inputs, layer.outputs, layer.groups)
    inputs, outputs, groups = (evaluate_terms(terms, widths) for terms in sizes)
    bits = f"{_bits(option.weight)}x{_bits(option.activation)}"
    return f"{layer.operator},in={inputs},out={outputs},groups={groups},bits={bits},{geometry}"


def _bits(scheme: Scheme | None) -> int:
    return scheme.bits if scheme is not None else _FLOAT_BITS
