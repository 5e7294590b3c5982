"""The allocation: one option for every unit, least loss under all limits at once, as a mixed-integer linear program.

A layer's cost is a product of widths, so it depends on the options of several units together. For each such set of
units there is a tensor of variables `y ≥ 0`, one entry a combination of options, whose marginals are the units' own
choices `x`: with binary `x`, `y` is 1 at the chosen combination and 0 elsewhere. That makes the products exact.
Where a cost sees no more of a unit than its width, options of the same width share their entries.
The marginals of a tensor are also those of every tensor over some of its units. For binary `x` that says nothing new;
for the relaxation it does: a cost and a loss can no longer each take the combinations that suit them, and hardly any
branching is left.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from trimtab.errors import NumericsError

_GAP = 1e-3
_INFEASIBLE = 2  # a status of scipy.optimize.milp


class Face(NamedTuple):
    """What a cost sees of a unit: of its options those in one class are alike. `classes[o]` is the class of option `o`,
    every number from 0 up taken.
    """

    unit: int
    classes: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many classes there are."""
        return max(self.classes) + 1

    def seen_by(self, finer: "Face") -> list[int] | None:
        """For each class of another face of the same unit the class of this one; None where the other sees less."""
        found = dict(zip(finer.classes, self.classes, strict=True))
        told = all(found[theirs] == mine for theirs, mine in zip(finer.classes, self.classes, strict=True))
        return [found[place] for place in range(finer.size)] if told else None


def whole(unit: int, options: int) -> Face:
    """Every option for itself."""
    return Face(unit, tuple(range(options)))


@dataclass
class Cost:
    """A cost as a constant plus a sum of tensors; each tensor's axes are the faces in its key, of distinct units."""

    constant: float = 0.0
    tensors: dict[tuple[Face, ...], np.ndarray] = field(default_factory=dict)

    def add(self, faces: tuple[Face, ...], tensor: np.ndarray) -> None:
        """Add a tensor over `faces` (sorted by unit; none, or none with more than one class: a constant)."""
        tensor = tensor.squeeze(tuple(axis for axis, face in enumerate(faces) if face.size == 1))
        faces = tuple(face for face in faces if face.size > 1)
        if not faces:
            self.constant += float(tensor)
        elif faces in self.tensors:
            self.tensors[faces] = self.tensors[faces] + tensor
        else:
            self.tensors[faces] = np.array(tensor, dtype=float)

    def scaled(self, by: float) -> "Cost":
        """Everything times `by`."""
        return Cost(self.constant * by, {faces: tensor * by for faces, tensor in self.tensors.items()})

    def include(self, other: "Cost") -> None:
        """Add another cost."""
        self.constant += other.constant
        for faces, tensor in other.tensors.items():
            self.add(faces, tensor)

    def at(self, choice: Sequence[int]) -> float:
        """The cost of one option index a unit."""
        return self.constant + sum(
            float(tensor[tuple(face.classes[choice[face.unit]] for face in faces)])
            for faces, tensor in self.tensors.items()
        )


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
        self.offsets: dict[tuple[Face, ...], int] = {}
        columns = int(sum(options))
        for faces in sorted({faces for cost in costs for faces in cost.tensors if len(faces) > 1}):
            self.offsets[faces] = columns
            columns += int(np.prod([face.size for face in faces]))
        self.columns = columns
        self.integrality = np.zeros(columns)
        self.integrality[: sum(options)] = 1

    def row(self, cost: Cost) -> np.ndarray:
        """Coefficients of `cost` over all columns."""
        row = np.zeros(self.columns)
        for faces, tensor in cost.tensors.items():
            if len(faces) > 1:
                start, values = self.offsets[faces], tensor.ravel()
            else:
                start, values = self.starts[faces[0].unit], tensor[list(faces[0].classes)]
            row[start : start + values.size] += values
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
        for faces, offset in self.offsets.items():
            shape = [face.size for face in faces]
            index = offset + np.arange(np.prod(shape)).reshape(shape)
            for axis, face in enumerate(faces):
                for number in range(face.size):
                    entries = np.take(index, number, axis=axis).ravel()
                    alike = self.starts[face.unit] + np.flatnonzero(np.array(face.classes) == number)
                    equation({1.0: entries, -1.0: alike}, 0.0)
        for part, start in self.offsets.items():
            for faces, offset in self.offsets.items():
                places = _places(part, faces)
                for number in range(0 if places is None else max(places) + 1):
                    equation({1.0: offset + np.flatnonzero(places == number), -1.0: np.array([start + number])}, 0.0)
        matrix = coo_array(
            (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=(len(right), self.columns)
        ).tocsr()
        return LinearConstraint(matrix, right, right)


def _places(part: tuple[Face, ...], faces: tuple[Face, ...]) -> np.ndarray | None:
    """For every entry of a tensor over `faces` that of one over `part`; None where that is not some of its units."""
    axes = {face.unit: axis for axis, face in enumerate(faces)}
    if len(part) >= len(faces) or any(face.unit not in axes for face in part):
        return None
    seen = [face.seen_by(faces[axes[face.unit]]) for face in part]
    index = np.indices([face.size for face in faces]).reshape(len(faces), -1)
    if None in seen:
        return None
    own = [np.array(classes)[index[axes[face.unit]]] for classes, face in zip(seen, part, strict=True)]
    return np.ravel_multi_index(own, [face.size for face in part])


def outer(vectors: Sequence[np.ndarray]) -> np.ndarray:
    """Outer product of vectors, as a tensor with an axis for each."""
    tensor = np.ones(())
    for vector in vectors:
        tensor = np.multiply.outer(tensor, vector)
    return tensor
