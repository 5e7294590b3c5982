"""The target `onnxruntime`: an ONNX file of Q/DQ pairs that ONNX Runtime fuses into integer kernels on the CPU."""

from collections import Counter
from pathlib import Path
from typing import Any

import onnx_ir as ir
from torch import nn
from torch.fx import GraphModule

from trimtab.lower.artifact import Artifact
from trimtab.lower.export import export_onnx
from trimtab.lower.kernels import Kernels
from trimtab.lower.onnx_passes import integer_passes, shorten
from trimtab.plan import PER_CHANNEL, PER_TENSOR, Scheme, Target
from trimtab.run import atomic_write
from trimtab.tasks.task import Inputs

ACTIVATION_INT8 = Scheme(grid="affine", bits=8, granularity=PER_TENSOR)
WEIGHT_INT8 = Scheme(grid="symmetric", bits=8, granularity=PER_CHANNEL)

_MOVES = {
    *(
        "Cast",
        "Concat",
        "ConstantOfShape",
        "DequantizeLinear",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "MaxPool",
        "Pad",
    ),
    *("QuantizeLinear", "ReorderInput", "ReorderOutput", "Reshape", "Shape", "Slice", "Split", "Squeeze", "Transpose"),
    "Unsqueeze",
}
_INTEGER_PREFIXES = ("QLinear", "QGemm", "QAttention", "MatMulInteger", "ConvInteger", "DynamicQuantize")


class OnnxRuntime:
    """Lowering to ONNX Runtime's CPU kernels. Widths step by 4 inputs and 16 outputs there; 8 is the compromise."""

    capabilities = Target(
        name="onnxruntime",
        suffix=".onnx",
        schemes_by_operator={
            "convolution": (WEIGHT_INT8, ACTIVATION_INT8),
            "linear": (WEIGHT_INT8, ACTIVATION_INT8),
            "add": (ACTIVATION_INT8,),
            "mean": (ACTIVATION_INT8,),
            "average_pool": (ACTIVATION_INT8,),
            "concatenation": (ACTIVATION_INT8,),
        },
        channel_multiple=4,
    )

    def lower(self, folded: GraphModule, example: Inputs, path: Path, restore: Any = None) -> Artifact:
        """Write a folded graph (`quant.fold`) to `path`."""
        model = export_onnx(folded, example)
        integer_passes(model)
        renamed = shorten(model)
        layers = {f"folded.{n.name}": str(n.meta["layer"]) for n in folded.graph.nodes if "layer" in n.meta}
        origins = {short: layers.get(old.rpartition(".")[0], old) for short, old in renamed.items()}
        atomic_write(path, ir.to_proto(model).SerializeToString(deterministic=True))
        return Artifact(path, self.capabilities, restore=restore, origins=origins)

    def lower_float(self, module: nn.Module, example: Inputs, path: Path, restore: Any = None) -> Artifact:
        """Write `module` as torch's exporter gives it, in float: what the user ships today."""
        atomic_write(path, ir.to_proto(export_onnx(module, example)).SerializeToString(deterministic=True))
        return Artifact(path, self.capabilities, restore=restore)

    def load(self, path: Path) -> Artifact:
        """A file written before."""
        return Artifact(path, self.capabilities)

    def kernels(self, artifact: Artifact) -> Kernels:
        """What the runtime executes, from its own optimized graph."""
        graph = artifact.optimized().graph
        integer: Counter[str] = Counter()
        floating: Counter[str] = Counter()
        fallbacks = []
        decoded = {
            out: list(node.input) for node in graph.node if node.op_type == "DequantizeLinear" for out in node.output
        }
        for node in graph.node:
            if node.op_type.startswith(_INTEGER_PREFIXES):
                integer[node.op_type] += 1
            elif node.op_type not in _MOVES:
                floating[node.op_type] += 1
                names = [source for name in node.input[1:] for source in decoded.get(name, [name])]
                origin = next((artifact.origins[name] for name in names if name in artifact.origins), None)
                origin = origin or next((artifact.origins.get(name, name) for name in node.output), "")
                fallbacks.append(f"{origin}: {node.op_type} runs in float")
        return Kernels(integer=dict(integer), floating=dict(floating), fallbacks=tuple(fallbacks))
