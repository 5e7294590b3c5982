"""The weights that may be stored in few bits, and what reads them: layers, embeddings, recurrent stacks."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.fx import GraphModule, Node

from trimtab.graph.analysis import tensor_names
from trimtab.graph.layers import OPERATORS as LAYERS
from trimtab.graph.layers import parameter_of
from trimtab.graph.values import bind

aten = torch.ops.aten

EMBEDDING = aten.embedding.default
RECURRENT: set[object] = {aten.lstm.input, aten.gru.input}


@dataclass(frozen=True)
class WeightRead:
    """`reader` reads the parameter at `weight`. `name` in a plan: a recurrent matrix's own, else less `.weight`."""

    reader: Node
    weight: Node
    name: str

    @property
    def recurrent(self) -> bool:
        """Whether it is a matrix of an LSTM or a GRU."""
        return self.reader.target in RECURRENT

    @property
    def family(self) -> str:
        """What a target calls the operator."""
        if self.recurrent:
            return "recurrent"
        return "embedding" if self.reader.target == EMBEDDING else str(LAYERS[self.reader.target])


def weight_reads(module: GraphModule) -> Iterator[WeightRead]:
    """Every place where a weight parameter is read, in graph order."""
    names = tensor_names(module)
    for node in module.graph.nodes:
        for weight in _weights(node):
            name = parameter_of(module, weight, names)
            if name is not None:
                yield WeightRead(node, weight, name if node.target in RECURRENT else name.removesuffix(".weight"))


def _weights(node: Node) -> list[Node]:
    if node.target in LAYERS:
        found = [node.args[1]]
    elif node.target == EMBEDDING:
        found = [node.args[0]]
    elif node.target in RECURRENT:
        found = list(bind(node)["params"][:2])
    else:
        found = []
    return [value for value in found if isinstance(value, Node)]
