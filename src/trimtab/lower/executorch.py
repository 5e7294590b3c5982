"""The target `executorch`: a `.pte` file whose operators XNNPACK executes on codes, through ExecuTorch's own runtime.

The file is a flatbuffer (operators, sizes, constants) with the delegates' flatbuffers inside; loading it runs no code.
"""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from trimtab.errors import LoweringError
from trimtab.graph.source import of_text
from trimtab.lower.artifact import Artifact, by_name
from trimtab.lower.contract import Simulation
from trimtab.lower.executorch_file import operators
from trimtab.lower.kernels import Kernels
from trimtab.lower.schemes import INT8_KERNELS
from trimtab.lower.xnnpack_graph import xnnpack_form
from trimtab.lower.xnnpack_simulation import XnnpackSimulation
from trimtab.plan import Target
from trimtab.run import atomic_write
from trimtab.tasks.rows import take
from trimtab.tasks.switches import quiet
from trimtab.tasks.task import Inputs

with warnings.catch_warnings():  # while it is imported, executorch uses what is deprecated
    warnings.simplefilter("ignore")
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.extension.pybindings.portable_lib import _threadpool_get_thread_count, _unsafe_reset_threadpool
    from executorch.runtime import Runtime


_NOT_COUNTED = ("StaticTranspose", "StaticReshape", "Convert", "MaxPooling2d", "Concatenate", "StaticConstantPad")
_MOVES = ("slice_copy", "select_copy", "constant_pad", "_clone", "view_copy", "permute_copy", "squeeze_copy", "cat")
_NAMES = "input_names"


class ExecuTorchArtifact(Artifact):
    """A `.pte` file. Its batch is one row, as is usual on devices; rows are executed one after the other."""

    _method: Any = None
    _pool: int = -1

    def execute(self, inputs: Sequence[Tensor], named: Mapping[str, Tensor]) -> list[Tensor]:
        """The outputs of all rows, joined along dimension 0."""
        forward = self._forward()
        feed = by_name(self._names, inputs, named)
        columns = [feed[name].contiguous() for name in self._names]
        rows = [forward.execute([column[row : row + 1] for column in columns]) for row in range(len(columns[0]))]
        return [torch.cat(outputs) for outputs in zip(*rows, strict=True)]

    @property
    def runtime(self) -> str:
        """Name and version."""
        return f"executorch {version('executorch')}, XNNPACK"

    def _forward(self) -> Any:
        """The method, loaded again when the process's one thread pool was replaced: it holds on to the pool."""
        pool = _use_threads(self.threads)
        if self._method is None or self._pool != pool:
            try:
                program = Runtime.get().load_program(self.path)
                self._names = [str(name) for name in program.load_method(_NAMES).execute([])]
                self._method, self._pool = program.load_method("forward"), pool
            except (RuntimeError, KeyError, ValueError) as error:
                raise LoweringError(f"{self.path}: ExecuTorch cannot load it: {str(error).splitlines()[0]}") from error
        return self._method


class _Pool:
    """How often the process's thread pool was replaced."""

    replaced = 0


def _use_threads(threads: int) -> int:
    """Give the runtime so many threads. Returns: which pool of the process this is."""
    if _threadpool_get_thread_count() != threads:
        _unsafe_reset_threadpool(threads)
        _Pool.replaced += 1
    return _Pool.replaced


class ExecuTorch:
    """Lowering to XNNPACK's kernels on the CPU, written with ExecuTorch."""

    capabilities = Target(
        name="executorch",
        suffix=".pte",
        schemes_by_operator=INT8_KERNELS,
        channel_multiple=4,
    )

    def lower(self, folded: GraphModule, example: Inputs, path: Path, restore: Any = None) -> Artifact:
        """Write a folded graph (`quant.fold`) to `path`."""
        layers = {node.name: str(node.meta["layer"]) for node in folded.graph.nodes if "layer" in node.meta}
        origins = _write(xnnpack_form(folded), example, path, layers)
        return ExecuTorchArtifact(path, self.capabilities, restore=restore, origins=origins)

    def lower_float(self, module: nn.Module, example: Inputs, path: Path, restore: Any = None) -> Artifact:
        """Write `module` in float32 for the same delegate."""
        return ExecuTorchArtifact(path, self.capabilities, restore=restore, origins=_write(module, example, path, {}))

    def load(self, path: Path) -> Artifact:
        """A file written before."""
        return ExecuTorchArtifact(path, self.capabilities)

    def simulation(self, folded: GraphModule) -> Simulation:
        """The integer one, with XNNPACK's roundings."""
        return Simulation("integer", XnnpackSimulation(folded))

    def kernels(self, artifact: Artifact) -> Kernels:
        """What the file has XNNPACK execute on codes and in float, and what is left to portable kernels."""
        integer: Counter[str] = Counter()
        floating: Counter[str] = Counter()
        fallbacks = []
        for kind, on_codes, handle in operators(artifact.path):
            if kind.startswith(_NOT_COUNTED) or kind.removeprefix("aten::").startswith(_MOVES):
                continue
            if on_codes:
                integer[kind] += 1
            else:
                floating[kind] += 1
                fallbacks.append(f"{artifact.origins.get(handle, kind)}: {kind} runs in float")
        return Kernels(integer=dict(integer), floating=dict(floating), fallbacks=tuple(fallbacks))


def _write(module: nn.Module, example: Inputs, path: Path, layers: Mapping[str, str]) -> dict[str, str]:
    """Write the file. Returns: debug handles in it → what they were called in the network."""
    row = take(example, torch.zeros(1, dtype=torch.long))
    args, kwargs = ((), dict(row)) if isinstance(row, dict) else (tuple(pytree.tree_leaves(row)), {})
    with quiet():
        try:
            program = torch.export.export(module, args, kwargs, strict=False)
            names = [name for name in program.graph_signature.user_inputs if isinstance(name, str)]
            edge = to_edge_transform_and_lower(
                program, partitioner=[XnnpackPartitioner()], constant_methods={_NAMES: names}
            )
            origins = _origins(edge.exported_program().graph_module, layers)
            content = edge.to_executorch().buffer
        except Exception as error:
            reason = str(error.__cause__ or error).strip().splitlines()[0]
            raise LoweringError(f"ExecuTorch export failed: {reason}; leave that operator out or report it") from error
    atomic_write(path, content)
    return origins


def _origins(graph: Any, layers: Mapping[str, str]) -> dict[str, str]:
    """Debug handles of delegated operators, and names of portable ones, → the layer, or operator and place in code."""
    found: dict[str, str] = {}
    delegated: list[Any] = [
        part.original_module.graph_module for part in graph.children() if hasattr(part, "original_module")
    ]
    for part in (graph, *delegated):
        for node in part.graph.nodes:
            if node.op == "call_function" and hasattr(node.target, "name"):
                read = (name for name in layers if any(f"_{name}_" in str(v.name) for v in node.all_input_nodes))
                place = of_text(node.meta.get("stack_trace") or "")
                called = node.target.name().removeprefix("aten::").partition(".")[0]
                named = layers.get(next(read, "")) or (f"{called} ({place})" if place else called)
                key = str(node.meta.get("debug_handle")) if part is not graph else node.target.name().partition(".")[0]
                found.setdefault(key, named)
    return found
