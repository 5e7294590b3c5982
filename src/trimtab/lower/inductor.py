"""The target `inductor`: a `.pt2` file that torch (AOTInductor) compiles to native code around oneDNN's int8 kernels.

The file holds native code, and loading it executes that code: load only files from places that you trust. It fits the
kind of processor that it was compiled on, and the version of torch.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from trimtab.errors import LoweringError
from trimtab.lower.artifact import Artifact, by_name
from trimtab.lower.contract import Simulation
from trimtab.lower.inductor_file import Facts, read, write
from trimtab.lower.inductor_graph import inductor_form
from trimtab.lower.inductor_simulation import InductorSimulation
from trimtab.lower.inductor_timeline import Executed, executed, timeline
from trimtab.lower.kernels import Kernels
from trimtab.lower.schemes import INT8_KERNELS
from trimtab.plan import Target, Timeline
from trimtab.tasks.switches import limit_threads
from trimtab.tasks.task import Inputs


class InductorArtifact(Artifact):
    """A `.pt2` file, executed in this process by torch's own threads."""

    def execute(self, inputs: Sequence[Tensor], named: Mapping[str, Tensor]) -> list[Tensor]:
        """One batch. The library takes memory as it is laid out in the file's inputs: row after row."""
        feed = by_name(self._names, inputs, named)
        rows = [feed[name].contiguous() for name in self._names]
        with limit_threads(self.threads):
            found: list[Tensor] = self._library.boxed_run(rows)
        return found

    @property
    def runtime(self) -> str:
        """Name and version."""
        return f"torch {torch.__version__.partition('+')[0]}, inductor"

    def timeline(self, inputs: Inputs, *, seconds: float = 1.0) -> Timeline:
        """From torch's profiler."""
        named = inputs if isinstance(inputs, dict) else {}
        return timeline(lambda: self.execute(pytree.tree_leaves(inputs), named), self.facts, seconds)

    @cached_property
    def facts(self) -> Facts:
        """What the file says of its inputs and kernels."""
        return read(self.path)

    def run_once(self) -> list[Executed]:
        """The kernels that one run on two rows of zeros executes."""
        rows = [torch.zeros(2, *shape, dtype=getattr(torch, dtype)) for _, shape, dtype in self.facts.inputs]
        self.execute(rows, {})
        return executed(lambda: self.execute(rows, {}), self.facts)

    @cached_property
    def _names(self) -> list[str]:
        return [name for name, _, _ in self.facts.inputs]

    @cached_property
    def _library(self) -> Any:
        try:
            return torch._C._aoti.AOTIModelPackageLoader(str(self.path), "model", False, 1, -1)
        except RuntimeError as error:
            raise LoweringError(f"{self.path}: torch cannot load it: {str(error).splitlines()[0]}") from error


class Inductor:
    """Lowering to oneDNN's kernels on the CPU, compiled with torch. It needs a C++ compiler."""

    capabilities = Target(
        name="inductor",
        suffix=".pt2",
        schemes_by_operator=INT8_KERNELS,
        channel_multiple=8,
    )

    def lower(self, folded: GraphModule, example: Inputs, path: Path, restore: Any = None) -> Artifact:
        """Compile a folded graph (`quant.fold`) into `path`."""
        layers = {node.name: str(node.meta["layer"]) for node in folded.graph.nodes if "layer" in node.meta}
        write(inductor_form(folded), example, path, layers)
        return InductorArtifact(path, self.capabilities, restore=restore)

    def lower_float(self, module: nn.Module, example: Inputs, path: Path, restore: Any = None) -> Artifact:
        """Compile `module` in float32, with the same settings."""
        write(module, example, path, {})
        return InductorArtifact(path, self.capabilities, restore=restore)

    def load(self, path: Path) -> Artifact:
        """A file written before. Its native code is executed when it first runs."""
        return InductorArtifact(path, self.capabilities)

    def simulation(self, folded: GraphModule) -> Simulation:
        """The integer one, with oneDNN's roundings."""
        return Simulation("integer", InductorSimulation(folded))

    def kernels(self, artifact: Artifact) -> Kernels:
        """What one run executes, as torch's profiler sees it."""
        assert isinstance(artifact, InductorArtifact)
        integer: Counter[str] = Counter()
        floating: Counter[str] = Counter()
        fallbacks = []
        for kernel in artifact.run_once():
            if kernel.kind == "integer":
                integer[kernel.operator] += 1
            elif kernel.kind == "float":
                floating[kernel.operator] += 1
                fallbacks.append(f"{kernel.layer or kernel.operator}: {kernel.operator} runs in float")
        return Kernels(integer=dict(integer), floating=dict(floating), fallbacks=tuple(fallbacks))
