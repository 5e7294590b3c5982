"""ONNX files, and what the values in them were called in the network."""

import re
from pathlib import Path

import onnx_ir as ir
from torch import nn
from torch.fx import GraphModule

from trimtab.graph.source import of_text
from trimtab.lower.export import export_onnx
from trimtab.lower.onnx_passes import integer_passes, shorten
from trimtab.run import atomic_write
from trimtab.tasks.task import Inputs

MOVES = {
    *(
        "Cast",
        "Concat",
        "ConstantOfShape",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "MaxPool",
        "Pad",
    ),
    *("QuantizeLinear", "ReorderInput", "ReorderOutput", "Reshape", "Shape", "Slice", "Split", "Squeeze", "Transpose"),
    *("Scan", "Unsqueeze"),
}
INTEGER_PREFIXES = (
    "QLinear",
    "QGemm",
    "QAttention",
    "MatMulInteger",
    "ConvInteger",
    "DynamicQuantizeM",
    "DynamicQuantizeLSTM",
)
_WEIGHT_READERS = {"DequantizeLinear", "Transpose", "Identity"}


def write_integer(folded: GraphModule, example: Inputs, path: Path) -> dict[str, str]:
    """Write a folded graph (`quant.fold`). Returns: names in the file → the layer, or the operator and its place."""
    model = export_onnx(folded, example)
    names = _origins(model.graph, folded)
    integer_passes(model)
    renamed = shorten(model)
    renamed |= {str(out.name): str(out.name) for out in model.graph.outputs}
    _write(model, path)
    owners = {short: names.get(old) or names.get(old.rpartition(".")[0]) for short, old in renamed.items()}
    return {short: owner for short, owner in owners.items() if owner}


def write_float(module: nn.Module, example: Inputs, path: Path) -> None:
    """Write `module` as torch's exporter gives it, in float: what the user ships today."""
    _write(export_onnx(module, example), path)


def _write(model: ir.Model, path: Path) -> None:
    atomic_write(path, ir.to_proto(model).SerializeToString(deterministic=True))


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
        elif node.op_type not in MOVES or node.op_type == "Gather":  # a table's rows are multiplied with scales
            found.update(names)
    return constants | found


def _place(node: ir.Node) -> str:
    """`relu (net.py:12 in forward)`, from what the exporter noted."""
    known = re.match(r"%(\w+)", node.metadata_props.get("pkg.torch.onnx.fx_node", ""))
    name = known[1] if known else node.op_type
    place = of_text(node.metadata_props.get("pkg.torch.onnx.stack_trace", ""))
    return f"{name} ({place})" if place else name
