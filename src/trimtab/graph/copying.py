"""Deep copies of graph modules."""

import copy
import warnings
from collections.abc import Iterable

from torch import Tensor, fx


def copy_module(module: fx.GraphModule, sharing: Iterable[Tensor] = ()) -> fx.GraphModule:
    """A deep copy that keeps the graph's input and output structure, and nodes in the same order.

    It shares the tensors `sharing`, which the caller is about to replace, and no other.
    """
    with warnings.catch_warnings():
        # torch 2.13 warns about its own class when a tree specification is copied.
        warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
        return copy.deepcopy(module, {id(tensor): tensor for tensor in sharing})
