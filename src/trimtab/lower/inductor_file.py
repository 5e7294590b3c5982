"""Compiling with AOTInductor, and the `.pt2` file: a zip of a shared library, and of what is said of its kernels."""

import re
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._inductor import aoti_compile_and_package
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.fx import Node
from torch.utils import _pytree as pytree

from trimtab.errors import LoweringError
from trimtab.graph.layers import OPERATORS as LAYERS
from trimtab.graph.source import of_text
from trimtab.plan import Kind
from trimtab.plan.record import Record
from trimtab.run import atomic_write
from trimtab.tasks.rows import take
from trimtab.tasks.switches import quiet
from trimtab.tasks.task import Inputs

_SETTINGS: dict[str, Any] = {
    "freezing": True,  # weights are constants, in the layout of the kernels
    "cpp.dynamic_threads": True,
    "cpp.enable_kernel_profile": True,  # every kernel says its name to a profiler
    "aot_inductor.enable_line_tables": False,
    "compile_threads": 1,
}
_FACTS = "model/extra/trimtab.json"
_CONVERSIONS = ("dequantize_per_tensor", "quantize_per_tensor")
_MOVES = (
    *("constant_pad_nd", "max_pool2d_with_indices", "_low_memory_max_pool_with_offsets", "slice", "select", "cat"),
    *("permute", "transpose", "view", "reshape", "flatten", "unsqueeze", "squeeze", "clone", "copy"),
)
_CODES = {"uint8_t", "int8_t"}
_SUMS = {"add", "add_", "mean", "relu", "relu_", "clamp", "clamp_min", "clamp_max", "avg_pool2d"}
"""What is computed on codes if it reads and writes them, like the additions of other runtimes."""
_PRODUCTS = ("addmm", "mm", "bmm", "convolution")
"""What is named after these and reads only codes writes constants of an integer kernel, or lays out its input."""
_PROTOTYPE = re.compile(r'extern "C" +void +(cpp_\w+)\(([^;{]*)\)[;\s]')
_CALL = re.compile(r'RAIIAtenRecordFunctionHandle \w+\("(aoti_torch_\w+)"|^ +(cpp_fused_\w+)\(\(')
_SOURCES = re.compile(r"Source Nodes: \[([^\]]*)\]")
_ROUNDED = {"quantize_per_tensor", "relu", "hardtanh", "clamp_min", "clamp_max"}
"""What a kernel of a layer takes in."""


class Kernel(Record):
    """A kernel that the compiler wrote: its operators, what it computes on, and whose they are if that is one."""

    operator: str
    kind: Kind
    layer: str


class Facts(Record):
    """What the library does not say: its inputs (name, size of a row, dtype), its kernels, its calls in their order.

    A call is the name of the kernel and the layer or the place in the user's code, "" where it is not known.
    """

    inputs: tuple[tuple[str, tuple[int, ...], str], ...]
    written: dict[str, Kernel]
    calls: tuple[tuple[str, str], ...]


def write(module: nn.Module, example: Inputs, path: Path, layers: Mapping[str, str]) -> None:
    """Compile `module` for this processor, any number of rows, into `path`.

    `layers` maps nodes of a folded graph to layers. Raises: LoweringError, also without a C++ compiler.
    """
    rows = take(example, torch.tensor([0, 0]))
    args, kwargs = ((), dict(rows)) if isinstance(rows, dict) else (tuple(pytree.tree_leaves(rows)), {})
    args, kwargs = pytree.tree_map(torch.Tensor.contiguous, (args, kwargs))
    shapes = pytree.tree_map(lambda _: {0: torch.export.Dim.DYNAMIC}, kwargs or args)
    with tempfile.TemporaryDirectory() as folder, quiet(), torch.no_grad():
        package = str(Path(folder, "model.pt2"))
        try:
            program = torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=False)
            aoti_compile_and_package(program, package_path=package, inductor_configs=_SETTINGS)
        except Exception as error:
            raise LoweringError(_reason(error)) from error
        named = zip(_names(program), pytree.tree_leaves((args, kwargs)), strict=True)
        inputs = tuple((name, tuple(x.shape[1:]), str(x.dtype).removeprefix("torch.")) for name, x in named)
        with zipfile.ZipFile(package) as made:
            source = "".join(made.read(name).decode() for name in made.namelist() if name.endswith(".wrapper.cpp"))
            content = _packed(made, _facts(source, program, inputs, layers))
    atomic_write(path, content)


def _facts(source: str, program: ExportedProgram, inputs: tuple[Any, ...], layers: Mapping[str, str]) -> Facts:
    places = _places(program, layers)
    of_operator: dict[str, list[str]] = {}
    for node in program.graph.nodes:
        if called := _called(node):
            of_operator.setdefault(called, []).append(places[node.name])
    written = dict(_written(source, of_operator))
    return Facts(inputs=inputs, written=written, calls=tuple(_calls(source, places, written)))


def read(path: Path) -> Facts:
    """Raises: LoweringError for a file that was not written here."""
    try:
        with zipfile.ZipFile(path) as file:
            return Facts.model_validate_json(file.read(_FACTS))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise LoweringError(f"{path}: no file of target 'inductor': {str(error).splitlines()[0]}") from error


def _packed(made: zipfile.ZipFile, facts: Facts) -> bytes:
    """The package without its sources, deflated, with the facts."""
    content = BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        for name in made.namelist():
            if not name.endswith(".cpp"):
                file.writestr(zipfile.ZipInfo(name), made.read(name), zipfile.ZIP_DEFLATED)
        file.writestr(zipfile.ZipInfo(_FACTS), facts.model_dump_json(), zipfile.ZIP_DEFLATED)
    return content.getvalue()


def _names(program: ExportedProgram) -> list[str]:
    return [name for name in program.graph_signature.user_inputs if isinstance(name, str)]


def _written(source: str, places: Mapping[str, list[str]]) -> Iterator[tuple[str, Kernel]]:
    """Kernels in the generated code, by name: which operators, from the name; on codes or floats, from the types."""
    for name, parameters in _PROTOTYPE.findall(source):
        text = re.sub(r"^cpp_fused_?|_?\d+$", "", name)
        found, text = _taken(text, (*_CONVERSIONS, *_MOVES, *places))
        reads_codes = set(re.findall(r"const (\w+)\* ", parameters)) <= _CODES
        ignored = {*_CONVERSIONS, *_MOVES, *(_PRODUCTS if reads_codes else ())}
        computed = sorted(part for part in found if part not in ignored)
        if text.strip("_"):
            computed.append(text.strip("_"))
        where = {place for part in computed for place in places.get(part, ())}
        yield (
            name,
            Kernel(
                operator="_".join(computed) or ("convert" if set(_CONVERSIONS) & found else "move"),
                kind=_kind(set(computed), found, parameters),
                layer=where.pop() if len(where) == 1 else "",
            ),
        )


def _taken(text: str, names: Iterable[str]) -> tuple[set[str], str]:
    """Which of `names` are in a text that joins some by underscores, and what is left of the text."""
    found = set()
    for name in sorted(names, key=len, reverse=True):
        shorter = re.sub(rf"(?<![^_]){re.escape(name)}(?![^_])", "", text)
        if shorter != text:
            found.add(name)
            text = shorter
    return found, text


def _kind(computed: set[str], found: set[str], parameters: str) -> Kind:
    reads = re.findall(r"(\w+)\* (?:in_ptr|in_out_ptr)", parameters)
    if not reads:
        return "move"  # it writes constants
    types = set(re.findall(r"(\w+)\* ", parameters))
    if computed:
        given = set(re.findall(r"const (\w+)\* ", parameters))
        on_codes = types <= _CODES or (set(_CONVERSIONS) <= found and given <= _CODES)
        return "integer" if on_codes and computed <= _SUMS else "float"
    return "conversion" if found & set(_CONVERSIONS) and not types <= _CODES else "move"


def _calls(source: str, places: Mapping[str, str], written: Mapping[str, Kernel]) -> Iterator[tuple[str, str]]:
    """Kernels in the order of their calls, each with its layer: that of the last operator in it."""
    place = ""
    for line in source.splitlines():
        if comment := _SOURCES.search(line):
            place = places.get(comment[1].split(", ")[-1], "")
        if call := _CALL.search(line):
            yield (call[1], place) if call[1] else (call[2], written[call[2]].layer)


def _places(program: ExportedProgram, layers: Mapping[str, str]) -> dict[str, str]:
    """Operator in the exported graph → the layer that it is part of, or its place in the user's code."""
    signature = program.graph_signature
    stored = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    found: dict[str, str] = {}
    for node in program.graph.nodes:
        read = [stored[value.name] for value in node.all_input_nodes if value.name in stored]
        first = node.args[0] if node.args else None
        if node.target in LAYERS and read:
            owner = read[-1].rpartition(".")[0]
            found[node.name] = layers.get(owner.removeprefix("folded."), owner)
        elif isinstance(first, Node) and _called(node) in _ROUNDED and found.get(first.name):
            found[node.name] = found[first.name]
        else:
            found[node.name] = of_text(node.meta.get("stack_trace") or "") or ""
    return found


def _called(node: Node) -> str:
    """What generated code calls an operator."""
    return node.target.name().partition("::")[2].partition(".")[0] if isinstance(node.target, OpOverload) else ""


def _reason(error: Exception) -> str:
    cause = error.__cause__ or error
    said = str(cause).strip().splitlines() or [type(cause).__name__]
    if "compiler" in str(cause).lower() or type(cause).__name__ in {"InvalidCxxCompiler", "CppCompileError"}:
        return f"inductor: the C++ compiler failed or is missing: {said[0]}; install g++ (or name one in CXX)"
    return f"inductor: cannot compile: {said[0]}; leave that operator out or report it"
