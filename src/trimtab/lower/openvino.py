"""The target `openvino`: the same ONNX file of Q/DQ pairs, read and executed by OpenVINO on the CPU.

One file is the artifact: OpenVINO reads ONNX itself, and its own form (`.xml` and `.bin`) is more than twice as large.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import openvino
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from trimtab.errors import LoweringError
from trimtab.lower.artifact import Artifact, by_name
from trimtab.lower.contract import Simulation
from trimtab.lower.kernels import Kernels
from trimtab.lower.onnx_file import write_float, write_integer
from trimtab.lower.openvino_graph import as_executed
from trimtab.lower.openvino_simulation import OpenVinoSimulation
from trimtab.lower.openvino_timeline import timeline
from trimtab.lower.schemes import INT8_KERNELS
from trimtab.plan import Target, Timeline
from trimtab.tasks.task import Inputs

_NOT_COUNTED = {
    *("Broadcast", "Concatenation", "Const", "Convert", "FakeQuantize", "Gather", "Input", "MemoryInput"),
    *("MemoryOutput", "Output", "Pad", "Reorder", "Reshape", "ShapeOf", "Split", "StridedSlice", "Transpose"),
}
"""Layer types that move data or convert between float and codes."""
_CODES = {"u8", "i8", "u4", "i4"}


class OpenVinoArtifact(Artifact):
    """An ONNX file, executed by OpenVINO. Float operators compute in float32, never in bfloat16."""

    def execute(self, inputs: Sequence[Tensor], named: Mapping[str, Tensor]) -> list[Tensor]:
        """One batch through one inference request, which is kept."""
        feed = {name: value.numpy() for name, value in by_name(self._names, inputs, named).items()}
        found = self._request.infer(feed, share_inputs=True)
        return [torch.from_numpy(array) for array in found.values()]

    @property
    def runtime(self) -> str:
        """Name and version."""
        return f"openvino {openvino.__version__.partition('-')[0]}"

    def timeline(self, inputs: Inputs, *, seconds: float = 1.0) -> Timeline:
        """From the performance counters of a network that is compiled with them."""
        counting = self._compile(counters=True)
        values = by_name(self._names, pytree.tree_leaves(inputs), inputs if isinstance(inputs, dict) else {})
        feed = {name: value.numpy() for name, value in values.items()}
        places = _places(counting.get_runtime_model().get_ordered_ops(), self.origins)
        return timeline(counting, lambda: self._request.infer(feed), feed, seconds, _NOT_COUNTED, places)

    @cached_property
    def compiled(self) -> openvino.CompiledModel:
        """The network as the runtime executes it: one stream, `threads` threads, not bound to cores."""
        return self._compile(counters=False)

    def _compile(self, *, counters: bool) -> openvino.CompiledModel:
        core = openvino.Core()
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
            "PERF_COUNT": counters,
        }
        try:
            return core.compile_model(core.read_model(self.path), "CPU", settings)
        except RuntimeError as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise LoweringError(f"{self.path}: OpenVINO cannot load it: {lines[-1].strip()}") from error

    @cached_property
    def _names(self) -> list[str]:
        return [value.get_any_name() for value in self.compiled.inputs]

    @cached_property
    def _request(self) -> openvino.InferRequest:
        return self.compiled.create_infer_request()


class OpenVino:
    """Lowering to OpenVINO's CPU kernels. Their time steps with 16 outputs."""

    capabilities = Target(
        name="openvino",
        suffix=".onnx",
        stored_bits=(8, 4, 2, 1),
        schemes_by_operator=INT8_KERNELS,
        channel_multiple=8,
    )

    def lower(self, folded: GraphModule, example: Inputs, path: Path, restore: Any = None) -> Artifact:
        """Write a folded graph (`quant.fold`) to `path`."""
        origins = write_integer(as_executed(folded), example, path)
        return OpenVinoArtifact(path, self.capabilities, restore=restore, origins=origins)

    def lower_float(self, module: nn.Module, example: Inputs, path: Path, restore: Any = None) -> Artifact:
        """Write `module` as torch's exporter gives it, in float: what the user ships today."""
        write_float(module, example, path)
        return OpenVinoArtifact(path, self.capabilities, restore=restore)

    def load(self, path: Path) -> Artifact:
        """A file written before."""
        return OpenVinoArtifact(path, self.capabilities)

    def simulation(self, folded: GraphModule) -> Simulation:
        """The integer one, in this runtime's order of roundings."""
        return Simulation("integer", OpenVinoSimulation(as_executed(folded)))

    def kernels(self, artifact: Artifact) -> Kernels:
        """What the runtime executes, from its own executed graph."""
        assert isinstance(artifact, OpenVinoArtifact)
        integer: Counter[str] = Counter()
        floating: Counter[str] = Counter()
        fallbacks = []
        operators = artifact.compiled.get_runtime_model().get_ordered_ops()
        places = _places(operators, artifact.origins)
        for operator in operators:
            said = _said(operator)
            kind = said["layerType"]
            if kind in _NOT_COUNTED:
                continue
            if said["runtimePrecision"] in _CODES:
                integer[kind] += 1
            else:
                floating[kind] += 1
                fallbacks.append(f"{places[operator.get_friendly_name()] or kind}: {kind} runs in float")
        return Kernels(integer=dict(integer), floating=dict(floating), fallbacks=tuple(fallbacks))


def _said(operator: openvino.Node) -> dict[str, str]:
    """What the runtime says of a kernel: its type, precision, and the names of all that was fused into it."""
    return {key: value.astype(str) for key, value in operator.get_rt_info().items()}


def _places(operators: Sequence[openvino.Node], origins: Mapping[str, str]) -> dict[str, str]:
    """Kernel → the layer, or the operator and its place; of a kernel that the runtime added, what reads its result."""
    found: dict[str, str] = {}
    for operator in reversed(operators):
        fused = [name.partition("/")[0] for name in _said(operator)["originalLayersNames"].split(",")]
        own = next((origins[name] for name in fused if name in origins), "")
        readers = [
            found[i.get_node().get_friendly_name()] for out in operator.outputs() for i in out.get_target_inputs()
        ]
        after = next((name.removeprefix("before ") for name in readers if name), "")
        found[operator.get_friendly_name()] = own or (f"before {after}" if after else "")
    return found
