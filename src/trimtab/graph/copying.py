"""Deep copies of graph modules."""

import copy
import warnings

from torch import fx


def copy_module(module: fx.GraphModule) -> fx.GraphModule:
    """A deep copy that keeps the graph's input and output structure, nodes in the same order, and shares no tensor."""
    with warnings.catch_warnings():
        # torch 2.13 warns about its own class when a tree specification is copied.
        warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
        return copy.deepcopy(module)
