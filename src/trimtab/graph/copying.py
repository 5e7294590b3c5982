"""Deep copies of graph modules, and what a new node says of itself."""

import copy
import warnings
from collections.abc import Iterable

from torch import Tensor, fx


def copy_module(module: fx.GraphModule, sharing: Iterable[Tensor] = ()) -> fx.GraphModule:
    """A deep copy that keeps the graph's input and output structure, and nodes in the same order.

    It shares the tensors `sharing`, which the caller replaces or leaves as they are, and no other.
    """
    with warnings.catch_warnings():
        # torch 2.13 warns about its own class when a tree specification is copied.
        warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
        return copy.deepcopy(module, {id(tensor): tensor for tensor in sharing})


def described(node: fx.Node) -> dict[str, object]:
    """What a new node that gives the same value says of itself: shape, and place in the user's code."""
    return {key: node.meta[key] for key in ("val", "stack_trace") if key in node.meta}
