"""The table from operators to rules."""

from collections.abc import Callable
from typing import Any, TypeVar

from trimtab.graph.values import Call

Rule = Callable[[Call], Any]
R = TypeVar("R", bound=Rule)

RULES: dict[Any, Rule] = {}

READS_INDICES: set[Any] = set()
"""Operators whose rules say what becomes of numbers that index a dimension."""


def rule(*operators: Any, indices: bool = False) -> Callable[[R], R]:
    """Register a rule: it takes a `Call`, states facts, and returns the output `Value`, a list of them, or a `Count`.

    What it cannot express it raises (`MisfitError`); the analysis then freezes every axis that the operator touches.
    Without `indices` it also freezes a dimension that the numbers of an argument index. An operator of another package
    is registered by its name.
    """

    def register(function: R) -> R:
        for operator in operators:
            if operator in RULES:
                raise ValueError(f"{operator} has a rule already: {RULES[operator].__name__}")
            RULES[operator] = function
            if indices:
                READS_INDICES.add(operator)
        return function

    return register
