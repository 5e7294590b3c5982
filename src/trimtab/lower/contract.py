"""What a target's file provides. One file a target, one registry line in `targets.py`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from torch import nn
from torch.fx import GraphModule

from trimtab.lower.artifact import Artifact
from trimtab.lower.kernels import Kernels
from trimtab.plan import Target
from trimtab.tasks.task import Inputs


class Simulation(NamedTuple):
    """A reading of a folded graph, called like the network: codes computed as integers, or as rounded floats."""

    name: Literal["integer", "float"]
    run: Callable[..., Any]


class Backend(Protocol):
    """A runtime: what it can do, how a network is written for it, and what it should compute.

    `folded` is what `quant.fold` gives; it is not changed. `restore` puts a flat list of outputs into the form in which
    the network returns them. What cannot be written raises LoweringError.
    """

    capabilities: Target

    def lower(self, folded: GraphModule, example: Inputs, path: Path, restore: Any = None) -> Artifact:
        """Write a folded graph to `path`: in integers where it has codes."""

    def lower_float(self, module: nn.Module, example: Inputs, path: Path, restore: Any = None) -> Artifact:
        """Write `module` in float32, the baseline of sizes and speeds."""

    def load(self, path: Path) -> Artifact:
        """A file written before."""

    def kernels(self, artifact: Artifact) -> Kernels:
        """What the runtime executes, from its own executed graph."""

    def simulation(self, folded: GraphModule) -> Simulation:
        """What an artifact of `folded` is compared with: the simulation nearest to this runtime's arithmetic."""
