"""The target `onnxruntime`: an ONNX file of Q/DQ pairs that ONNX Runtime fuses into integer kernels on the CPU."""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
from torch import nn
from torch.fx import GraphModule

from trimtab.graph.source import of_text
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
_WEIGHT_READERS = {"DequantizeLinear", "Transpose", "Identity"}
_INTEGER_PREFIXES = ("QLinear", "QGemm", "QAttention", "MatMulInteger", "ConvInteger", "DynamicQuantize")


class OnnxRuntime:
    """Lowering to ONNX Runtime's CPU kernels. Their time steps with 4 inputs and 16 outputs; widths step by 4."""

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
        names = _origins(model.graph, folded)
        integer_passes(model)
        renamed = shorten(model)
        renamed |= {str(out.name): str(out.name) for out in model.graph.outputs}
        origins = {short: names[old] for short, old in renamed.items() if old in names}
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
        origins = _inherited(graph, artifact.origins)
        codes: set[str] = set()
        for node in graph.node:
            moves = node.op_type in _MOVES or (node.op_type == "Clip" and node.input[0] in codes)
            if node.op_type.startswith(_INTEGER_PREFIXES):
                integer[node.op_type] += 1
            elif not moves:
                floating[node.op_type] += 1
                where = next((origins[name] for name in _naming(node, graph) if name in origins), node.op_type)
                fallbacks.append(f"{where}: {node.op_type} runs in float")
            if _gives_codes(node, codes, moves):
                codes.update(node.output)
        return Kernels(integer=dict(integer), floating=dict(floating), fallbacks=tuple(fallbacks))


def _gives_codes(node: Any, codes: set[str], moves: bool) -> bool:
    if node.op_type == "DequantizeLinear":
        return False
    return node.op_type.startswith(("QuantizeLinear", "QLinear")) or (moves and bool(codes.intersection(node.input)))


def _origins(graph: ir.Graph, folded: GraphModule) -> dict[str, str]:
    """Names of values in an exported graph → the layer, or the operator and its place in the user's code."""
    layers = {f"folded.{n.name}": str(n.meta["layer"]) for n in folded.graph.nodes if "layer" in n.meta}
    owners = ((name, name.rpartition(".")[0]) for name in graph.initializers)
    constants = {name: layers.get(owner, owner) for name, owner in owners if owner and "fake_quantize" not in owner}
    found: dict[str, str] = {}
    for node in graph:
        read = [constants[value.name] for value in node.inputs if value is not None and value.name in constants]
        names = {out.name or "": read[0] if read else _place(node) for out in node.outputs}
        if node.op_type in _WEIGHT_READERS:
            constants.update(names if read else {})
        elif node.op_type not in _MOVES:
            found.update(names)
    return constants | found


def _naming(node: Any, graph: Any) -> list[str]:
    """The values that say what a node is, the best first: constants that it reads, dequantized or not, and results."""
    constants = {constant.name for constant in graph.initializer}
    decoded = {out: n.input[0] for n in graph.node if n.op_type == "DequantizeLinear" for out in n.output}
    return [*(name for name in node.input if decoded.get(name, name) in constants), *node.output]


def _place(node: ir.Node) -> str:
    """`relu (net.py:12 in forward)`, from what the exporter noted."""
    known = re.match(r"%(\w+)", node.metadata_props.get("pkg.torch.onnx.fx_node", ""))
    name = known[1] if known else node.op_type
    place = of_text(node.metadata_props.get("pkg.torch.onnx.stack_trace", ""))
    return f"{name} ({place})" if place else name


def _inherited(graph: Any, origins: Mapping[str, str]) -> dict[str, str]:
    """Values that the runtime added are named after what reads them."""
    found = dict(origins)
    for node in reversed(graph.node):
        reading = next((found[name] for name in node.output if name in found), None)
        if reading and node.op_type not in _MOVES:
            found.update((name, reading) for name in node.input if name not in found)
    return found
