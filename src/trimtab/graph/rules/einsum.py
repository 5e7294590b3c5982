"""Einstein sums: every letter is one axis. Products of vectors, matrices and tensors are such sums by other names."""

from collections.abc import Sequence

import torch

from trimtab.graph.axes import Axis, Dim, MisfitError, size
from trimtab.graph.rules.contract import NOT_ZERO
from trimtab.graph.rules.table import rule
from trimtab.graph.values import Call, Value, atoms, axes_of

aten = torch.ops.aten

Letters = Sequence[str]
"""One name a dimension: letters of an equation, or `.0`, `.1`, … for what an ellipsis stands for, from the right."""


@rule(aten.einsum.default)
def einsum(call: Call) -> Value:
    """`bhid,bhjd->bhij`: dimensions of one letter are the same; letters that are not in the output are summed."""
    values = call.list("tensors")
    operands, output = _letters(str(call.raw("equation")), [len(value.dims) for value in values])
    return einstein(call, operands, values, output)


def einstein(call: Call, operands: Sequence[Letters], values: Sequence[Value], output: Letters) -> Value:
    """The sum over all letters that are not in `output` of the product of `values`, whose dimensions are `operands`."""
    axes = _axes(call, operands, values)
    for letters, value in zip(operands, values, strict=True):
        for i, letter in enumerate(letters):
            if letter in output:
                call.produce(value, i)
            else:
                call.role(value, i, "in")
    for letter, dim in axes.items():
        if letter not in output:
            call.contract(dim, [Value((), s) for s in _alive_along(letter, dim, operands, values)], NOT_ZERO)
    alive: set[Axis] = set()
    for letter in output:
        alive |= axes_of([axes[letter]]).intersection(*_alive_along(letter, axes[letter], operands, values))
    return Value(tuple(axes[letter] for letter in output), alive)


def _axes(call: Call, operands: Sequence[Letters], values: Sequence[Value]) -> dict[str, Dim]:
    """The dimension of every letter; one of size 1 is repeated where the others are larger."""
    axes: dict[str, Dim] = {}
    for letters, value in zip(operands, values, strict=True):
        for letter, dim in zip(letters, value.dims, strict=True):
            known = axes.setdefault(letter, dim)
            if size(known) == size(dim):
                call.unify(known, dim)
            elif size(known) == 1:
                axes[letter] = dim
            elif size(dim) != 1:
                raise MisfitError(f"the positions of {letter!r} differ: {size(known)} and {size(dim)}")
    return axes


def _alive_along(letter: str, dim: Dim, operands: Sequence[Letters], values: Sequence[Value]) -> list[set[Axis]]:
    """For every operand that has the letter in full: the axes along which it does not vanish."""
    return [
        atoms(value.alive)
        for letters, value in zip(operands, values, strict=True)
        if any(mine == letter and size(own) == size(dim) for mine, own in zip(letters, value.dims, strict=True))
    ]


def _letters(equation: str, ranks: Sequence[int]) -> tuple[list[list[str]], list[str]]:
    """The letters of every operand and of the output, ellipses written out. Raises: MisfitError."""
    left, arrow, output = equation.replace(" ", "").partition("->")
    operands = [_spelled(part, rank) for part, rank in zip(left.split(","), ranks, strict=True)]
    widest = max((sum(letter[0] == "." for letter in letters) for letters in operands), default=0)
    if arrow:
        return operands, _spelled(output, len(output.replace("...", "")) + (widest if "..." in output else 0))
    once = sorted({letter for letter in left if letter.isalpha() and left.count(letter) == 1})
    return operands, [*(f".{i}" for i in reversed(range(widest))), *once]


def _spelled(part: str, rank: int) -> list[str]:
    before, dots, after = part.partition("...")
    hidden = rank - len(before) - len(after)
    if hidden < 0 or (hidden and not dots):
        raise MisfitError(f"{part!r} does not name {rank} dimensions")
    return [*before, *(f".{i}" for i in reversed(range(hidden))), *after]
