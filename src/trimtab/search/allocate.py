"""The allocation: one option for every unit, least loss under all limits at once, as a mixed-integer linear program.

A layer's cost is a product of widths, so it depends on the options of several units together. For each such set of
units there is a tensor of variables `y ≥ 0`, one entry a combination of options, whose marginals are the units' own
choices `x`: with binary `x`, `y` is 1 at the chosen combination and 0 elsewhere. That makes the products exact.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from trimtab.errors import NumericsError

_GAP = 1e-3
_INFEASIBLE = 2  # a status of scipy.optimize.milp


@dataclass
class Cost:
    """A cost as a constant plus a sum of tensors; each tensor's axes are the options of the units in its key."""

    constant: float = 0.0
    tensors: dict[tuple[int, ...], np.ndarray] = field(default_factory=dict)

    def add(self, units: tuple[int, ...], tensor: np.ndarray) -> None:
        """Add a tensor over the options of `units` (sorted, distinct; none: a constant)."""
        if not units:
            self.constant += float(tensor)
        elif units in self.tensors:
            self.tensors[units] = self.tensors[units] + tensor
        else:
            self.tensors[units] = np.array(tensor, dtype=float)

    def at(self, choice: Sequence[int]) -> float:
        """The cost of one option index a unit."""
        return self.constant + sum(float(t[tuple(choice[u] for u in units)]) for units, t in self.tensors.items())


def allocate(objective: Cost, limits: Sequence[tuple[Cost, float]], options: Sequence[int]) -> list[int] | None:
    """The choice that minimizes `objective` with every cost at most its bound; None when there is none.

    `options[u]` is the number of options of unit `u`. Deterministic: no time limit, relative gap 0.1 %.
    """
    model = _Model(options, [objective, *(cost for cost, _ in limits)])
    constraints = [model.marginals(), *(_constraint(model.row(cost), bound - cost.constant) for cost, bound in limits)]
    row = model.row(objective)
    found = milp(
        row / (float(np.abs(row).max()) or 1.0),
        integrality=model.integrality,
        bounds=Bounds(0, 1),
        constraints=constraints,
        options={"mip_rel_gap": _GAP},
    )
    if found.x is None:
        if found.status != _INFEASIBLE and "infeasible" not in found.message.lower():
            raise NumericsError(f"search: the solver gave up ({found.message}); are losses and limits of sane size?")
        return None
    return [int(np.argmax(found.x[start : start + n])) for start, n in zip(model.starts, options, strict=True)]


def _constraint(row: np.ndarray, bound: float) -> LinearConstraint:
    """`row` at most `bound`, on a scale on which the solver's tolerance of 1e-6 means little."""
    scale = abs(bound) or float(np.abs(row).max()) or 1.0
    return LinearConstraint(row / scale, -np.inf, bound / scale)


class _Model:
    """Columns of the program: every unit's options, then the entries of every tensor over two or more units."""

    def __init__(self, options: Sequence[int], costs: Sequence[Cost]) -> None:
        self.options = options
        self.starts = [int(s) for s in np.concatenate([[0], np.cumsum(options)[:-1]])]
        self.offsets: dict[tuple[int, ...], int] = {}
        columns = int(sum(options))
        for units in sorted({units for cost in costs for units in cost.tensors if len(units) > 1}):
            self.offsets[units] = columns
            columns += int(np.prod([options[u] for u in units]))
        self.columns = columns
        self.integrality = np.zeros(columns)
        self.integrality[: sum(options)] = 1

    def row(self, cost: Cost) -> np.ndarray:
        """Coefficients of `cost` over all columns."""
        row = np.zeros(self.columns)
        for units, tensor in cost.tensors.items():
            start = self.offsets[units] if len(units) > 1 else self.starts[units[0]]
            row[start : start + tensor.size] += tensor.ravel()
        return row

    def marginals(self) -> LinearConstraint:
        """Each unit takes exactly one option; each tensor's marginals equal its units' choices."""
        rows: list[np.ndarray] = []
        columns: list[np.ndarray] = []
        values: list[np.ndarray] = []
        right: list[float] = []

        def equation(parts: Mapping[float, np.ndarray], equals: float) -> None:
            for value, where in parts.items():
                rows.append(np.full(len(where), len(right)))
                columns.append(where)
                values.append(np.full(len(where), value))
            right.append(equals)

        for start, n in zip(self.starts, self.options, strict=True):
            equation({1.0: np.arange(start, start + n)}, 1.0)
        for units, offset in self.offsets.items():
            index = offset + np.arange(np.prod([self.options[u] for u in units])).reshape(
                [self.options[u] for u in units]
            )
            for axis, unit in enumerate(units):
                for option in range(self.options[unit]):
                    entries = np.take(index, option, axis=axis).ravel()
                    equation({1.0: entries, -1.0: np.array([self.starts[unit] + option])}, 0.0)
        matrix = coo_array(
            (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=(len(right), self.columns)
        ).tocsr()
        return LinearConstraint(matrix, right, right)


def outer(units: Sequence[int], values: Mapping[int, np.ndarray]) -> np.ndarray:
    """Outer product of one vector a unit, as a tensor over their options."""
    tensor = np.ones(())
    for unit in units:
        tensor = np.multiply.outer(tensor, values[unit])
    return tensor
