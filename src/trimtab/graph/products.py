"""Dimensions that are products: groups whose cuts multiply there (attention heads and what a head holds)."""

from collections.abc import Mapping

from trimtab.graph.analysis import Analysis
from trimtab.graph.axes import Axis, leaves, products

Product = tuple[tuple[str, ...], ...]
"""The factors of a dimension, outer to inner, each with the names of its groups (several where it is a sum)."""


def find_products(analysis: Analysis, names: Mapping[Axis, str]) -> tuple[Product, ...]:
    """Every product of two or more factors with a group in each, in the order in which the graph reads the tensors."""
    found: dict[Product, None] = {}
    for dims in analysis.tensors.values():
        for dim in dims:
            for axes in products(dim):
                factors = (_groups_in(axis, names) for axis in axes)
                product = tuple(factor for factor in factors if factor)
                if len(product) > 1:
                    found[product] = None
    return tuple(found)


def _groups_in(axis: Axis, names: Mapping[Axis, str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names[atom] for atom in leaves((axis,)) if atom in names))
