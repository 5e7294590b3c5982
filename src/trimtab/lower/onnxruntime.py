"""The target `onnxruntime`: an ONNX file of Q/DQ pairs that ONNX Runtime fuses into integer kernels on the CPU."""

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from trimtab.errors import LoweringError
from trimtab.lower.artifact import Artifact, by_name
from trimtab.lower.contract import Simulation
from trimtab.lower.kernels import Kernels
from trimtab.lower.onnx_file import INTEGER_PREFIXES, MOVES, write_float, write_integer
from trimtab.lower.onnxruntime_timeline import timeline
from trimtab.lower.schemes import ACTIVATION_INT8, INT8_KERNELS, WEIGHT_INT8
from trimtab.plan import PER_TENSOR, Scheme, Target, Timeline
from trimtab.quant import IntegerSimulation
from trimtab.quant.gates import gates_on_codes
from trimtab.tasks.task import Inputs

ACTIVATION_DYNAMIC = Scheme(grid="affine", bits=8, granularity=PER_TENSOR, dynamic=True)


_QGEMM_SCALE = 7
"""The input of QGemm that holds the scale of its codes; without it the result is float."""


class OnnxRuntimeArtifact(Artifact):
    """An ONNX file, executed by ONNX Runtime."""

    def execute(self, inputs: Sequence[Tensor], named: Mapping[str, Tensor]) -> list[Tensor]:
        """One batch through one session, which is kept."""
        names = [value.name for value in self._session.get_inputs()]
        feed = {name: value.numpy() for name, value in by_name(names, inputs, named).items()}
        return [torch.from_numpy(array) for array in self._session.run(None, feed)]

    @property
    def runtime(self) -> str:
        """Name and version."""
        return f"onnxruntime {onnxruntime.__version__}"

    def timeline(self, inputs: Inputs, *, seconds: float = 1.0) -> Timeline:
        """From the profiler of a session of its own."""
        names = [value.name for value in self._session.get_inputs()]
        named = inputs if isinstance(inputs, dict) else {}
        values = by_name(names, pytree.tree_leaves(inputs), named)
        feed = {name: value.numpy() for name, value in values.items()}
        return timeline(self, lambda: self._session.run(None, feed), feed, seconds)

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        return _open(self.path, self.threads)


def optimized(artifact: Artifact) -> onnx.ModelProto:
    """The graph after the runtime's own fusions, before it picks memory layouts (which renames values)."""
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "optimized.onnx"
        _open(artifact.path, artifact.threads, optimized=written)
        return onnx.load(written)


class OnnxRuntime:
    """Lowering to ONNX Runtime's CPU kernels. Their time steps with 4 inputs and 16 outputs; widths step by 4."""

    capabilities = Target(
        name="onnxruntime",
        suffix=".onnx",
        stored_bits=(8, 4, 2, 1),
        schemes_by_operator={
            **INT8_KERNELS,
            "dynamic_linear": (WEIGHT_INT8, ACTIVATION_DYNAMIC),
            "dynamic_recurrent": (WEIGHT_INT8, ACTIVATION_DYNAMIC),
            "embedding": (WEIGHT_INT8,),
            "multiplication": (ACTIVATION_INT8,),
            "sigmoid": (ACTIVATION_INT8,),
            "silu": (ACTIVATION_INT8,),
            "hardsigmoid": (ACTIVATION_INT8,),
            "hardswish": (ACTIVATION_INT8,),
        },
        channel_multiple=4,
    )

    def lower(self, folded: GraphModule, example: Inputs, path: Path, restore: Any = None) -> Artifact:
        """Write a folded graph (`quant.fold`) to `path`."""
        origins = write_integer(gates_on_codes(folded), example, path)
        return OnnxRuntimeArtifact(path, self.capabilities, restore=restore, origins=origins)

    def lower_float(self, module: nn.Module, example: Inputs, path: Path, restore: Any = None) -> Artifact:
        """Write `module` as torch's exporter gives it, in float: what the user ships today."""
        write_float(module, example, path)
        return OnnxRuntimeArtifact(path, self.capabilities, restore=restore)

    def load(self, path: Path) -> Artifact:
        """A file written before."""
        return OnnxRuntimeArtifact(path, self.capabilities)

    def simulation(self, folded: GraphModule) -> Simulation:
        """The integer one: identical row for row."""
        return Simulation("integer", IntegerSimulation(gates_on_codes(folded)))

    def kernels(self, artifact: Artifact) -> Kernels:
        """What the runtime executes, from its own optimized graph."""
        graph = optimized(artifact).graph
        integer: Counter[str] = Counter()
        floating: Counter[str] = Counter()
        fallbacks = []
        origins = _inherited(graph, artifact.origins)
        codes: set[str] = set()
        for node, loop in _every_node(graph):
            moves = node.op_type in MOVES or (node.op_type == "Clip" and node.input[0] in codes)
            if node.op_type.startswith(INTEGER_PREFIXES):
                integer[node.op_type] += 1
            elif not moves:
                floating[node.op_type] += 1
                names = [*_naming(node, graph), *(loop.output if loop is not None else ())]
                where = next((origins[name] for name in names if name in origins), node.op_type)
                fallbacks.append(f"{where}: {node.op_type} runs in float")
            if _gives_codes(node, codes, moves):
                codes.update(node.output)
        return Kernels(integer=dict(integer), floating=dict(floating), fallbacks=tuple(fallbacks))


def _every_node(graph: Any, loop: Any = None) -> Iterator[tuple[Any, Any]]:
    """Nodes in order, each with the loop that it is in, if it is in one."""
    for node in graph.node:
        yield node, loop
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _every_node(attribute.g, node)


def _gives_codes(node: Any, codes: set[str], moves: bool) -> bool:
    if node.op_type == "DequantizeLinear":
        return False
    if node.op_type == "QGemm":
        return len(node.input) > _QGEMM_SCALE and bool(node.input[_QGEMM_SCALE])
    return node.op_type.startswith(("QuantizeLinear", "QLinear")) or (moves and bool(codes.intersection(node.input)))


def _naming(node: Any, graph: Any) -> list[str]:
    """The values that say what a node is, the best first: constants that it reads, dequantized or not, and results."""
    constants = {constant.name for constant in graph.initializer}
    decoded = {out: n.input[0] for n in graph.node if n.op_type == "DequantizeLinear" for out in n.output}
    return [*(name for name in node.input if decoded.get(name, name) in constants), *node.output]


def _inherited(graph: Any, origins: Mapping[str, str]) -> dict[str, str]:
    """Values that the runtime added are named after what reads them."""
    found = dict(origins)
    for node in reversed(graph.node):
        reading = next((found[name] for name in node.output if name in found), None)
        if reading and node.op_type not in MOVES:
            found.update((name, reading) for name in node.input if name not in found)
    return found


def _open(path: Path, threads: int, optimized: Path | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime exports no common base of its exceptions
        raise LoweringError(f"{path}: ONNX Runtime cannot load it: {str(error).splitlines()[0]}") from error
