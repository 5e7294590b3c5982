"""Einstein sums: every letter is one axis."""

import torch

from trimtab.graph.axes import Axis, Dim, MisfitError, size
from trimtab.graph.rules.contract import NOT_ZERO
from trimtab.graph.rules.table import rule
from trimtab.graph.values import Call, Value, atoms, axes_of

aten = torch.ops.aten


@rule(aten.einsum.default)
def einsum(call: Call) -> Value:
    """`bhid,bhjd->bhij`: dimensions of one letter are the same; letters that are not in the output are summed."""
    operands, output = _letters(call)
    values = call.list("tensors")
    axes: dict[str, Dim] = {}
    for letters, value in zip(operands, values, strict=True):
        for i, (letter, dim) in enumerate(zip(letters, value.dims, strict=True)):
            known = axes.setdefault(letter, dim)
            if size(known) != size(dim):
                raise MisfitError(f"the positions of {letter!r} are repeated")
            call.unify(known, dim)
            if letter in output:
                call.produce(value, i)
            else:
                call.role(value, i, "in")
    for letter, dim in axes.items():
        if letter not in output:
            call.contract(dim, [v for letters, v in zip(operands, values, strict=True) if letter in letters], NOT_ZERO)
    alive: set[Axis] = set()
    for letter in output:
        factors = [v for letters, v in zip(operands, values, strict=True) if letter in letters]
        alive |= axes_of([axes[letter]]).intersection(*(atoms(factor.alive) for factor in factors))
    return Value(tuple(axes[letter] for letter in output), alive)


def _letters(call: Call) -> tuple[list[str], str]:
    """The letters of every operand and of the output. Raises: NotImplementedError for an ellipsis."""
    equation = str(call.raw("equation")).replace(" ", "")
    if "." in equation:
        raise NotImplementedError("an Einstein sum with an ellipsis")
    left, arrow, output = equation.partition("->")
    operands = left.split(",")
    if any(len(set(letters)) < len(letters) for letters in operands):
        raise NotImplementedError("an Einstein sum with a diagonal")
    if not arrow:
        output = "".join(sorted(letter for letter in set(left) - {","} if left.count(letter) == 1))
    return operands, output
