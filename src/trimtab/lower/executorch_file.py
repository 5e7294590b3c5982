"""What a `.pte` file holds, read from the file itself: the operators of its delegates, and those that fell back."""

import json
import re
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

with warnings.catch_warnings():  # while it is imported, executorch uses what is deprecated
    warnings.simplefilter("ignore")
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader, _get_schema_bytes
    from executorch.exir._serialize._flatbuffer import _flatc_decompile
    from executorch.exir._serialize._program import deserialize_pte_binary
    from executorch.exir.schema import KernelCall

_INFINITE = re.compile(r": (-?)inf\b")  # as flatc writes it
_DATATYPES = {"qint8", "qcint8", "qint32", "qcint32", "qdint8"}


class Operator(NamedTuple):
    """One call: its kind, whether it computes on codes, and what it was called when the file was written."""

    kind: str
    integer: bool
    handle: str


def operators(path: Path) -> Iterator[Operator]:
    """Operators in the order of the file: those of XNNPACK's delegates, and the portable ones between them."""
    program = deserialize_pte_binary(path.read_bytes()).program
    plan = next(plan for plan in program.execution_plan if plan.name == "forward")
    for instruction in plan.chains[0].instructions:
        call = instruction.instr_args
        if isinstance(call, KernelCall):
            kind = plan.operators[call.op_index].name
            yield Operator(kind, False, kind)
    for delegate in plan.delegates:
        yield from _delegated(program.backend_delegate_data[delegate.processed.index].data)


def _delegated(payload: bytes) -> Iterator[Operator]:
    graph = _graph(payload)
    kinds = [_datatype(value["xvalue_union"]) for value in graph["xvalues"]]
    for node in graph["xnodes"]:
        body = node["xnode_union"]
        read = [kinds[place] for name, place in body.items() if name.startswith("input") and place < len(kinds)]
        integer = all(kind in _DATATYPES for kind in read)
        if node["xnode_union_type"] == "XNNConvert":
            integer = integer and kinds[body["output_id"]] in _DATATYPES
        yield Operator(node["xnode_union_type"].removeprefix("XNN"), integer, str(node["debug_handle"]))


def _datatype(value: dict[str, Any]) -> str:
    return str(value.get("tensor_value", value)["datatype"]).removeprefix("xnn_datatype_")


def _graph(payload: bytes) -> dict[str, Any]:
    """A delegate's graph, which is a flatbuffer behind a header."""
    header = XNNHeader.from_bytes(payload[: XNNHeader.EXPECTED_LENGTH])
    begin = header.flatbuffer_offset
    with tempfile.TemporaryDirectory() as folder:
        schema, binary = Path(folder, "schema.fbs"), Path(folder, "graph.bin")
        schema.write_bytes(_get_schema_bytes())
        binary.write_bytes(payload[begin : begin + header.flatbuffer_size])
        _flatc_decompile(folder, str(schema), str(binary), ["--raw-binary"])
        found: dict[str, Any] = json.loads(_INFINITE.sub(r": \1Infinity", Path(folder, "graph.json").read_text()))
    return found
