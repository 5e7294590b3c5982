"""The file holds nothing idle: no unused nodes, no constant twice, no names, types or defaults that nobody needs."""

from collections.abc import Callable, Iterator
from typing import Any

import onnx_ir as ir

_DEFAULTS: dict[str, object] = {
    "alpha": 1.0,
    "beta": 1.0,
    "transA": 0,
    "group": 1,
    "auto_pad": "NOTSET",
    "saturate": 1,
    "output_dtype": 0,
    "block_size": 0,
    "noop_with_empty_axes": 0,
    "ceil_mode": 0,
    "storage_order": 0,
    "count_include_pad": 0,
    "allowzero": 0,
}


def remove_unused(graph: ir.Graph) -> None:
    """Drop nodes and constants that nothing reads, and merge equal constants."""
    for node in reversed(list(graph)):
        if not any(out.uses() or out.is_graph_output() for out in node.outputs):
            graph.remove(node, safe=True)
    seen: dict[tuple[object, ...], ir.Value] = {}
    for name, value in list(graph.initializers.items()):
        if not value.uses():
            del graph.initializers[name]
            continue
        assert value.const_value is not None
        key = (value.const_value.dtype, tuple(value.const_value.shape), value.const_value.tobytes())
        if key in seen:
            value.replace_all_uses_with(seen[key])
            del graph.initializers[name]
        else:
            seen[key] = value


def shorten(model: ir.Model) -> dict[str, str]:
    """Strip names, types of inner values, defaults and metadata from the file. Returns: new → old value names."""
    graph = model.graph
    names = _short_names()
    renamed: dict[str, str] = {}
    kept = {value.name for value in [*graph.inputs, *graph.outputs]}
    constants = dict(graph.initializers)
    graph.initializers.clear()
    values = [*constants.values(), *(out for node in graph for out in node.outputs)]
    for value in values:
        if value.name not in kept:
            short = next(name for name in names if name not in kept)
            renamed[short] = value.name or ""
            value.name = short
            if value.const_value is not None:
                value.const_value.name = short
    for value in constants.values():
        graph.register_initializer(value)
        value.type, value.shape = None, None
    for node in graph:
        node.name = None
        node.doc_string = None
        node.metadata_props.clear()
        _drop_defaults(node)
        for out in node.outputs:
            if not out.is_graph_output():
                out.type, out.shape = None, None
            out.metadata_props.clear()
    model.metadata_props.clear()
    graph.metadata_props.clear()
    for value in (*graph.inputs, *constants.values()):
        value.metadata_props.clear()
    model.producer_name, model.producer_version, model.doc_string, graph.doc_string = "trimtab", None, None, None
    return renamed


def _drop_defaults(node: ir.Node) -> None:
    for name, attribute in list(node.attributes.items()):
        if _is_default(node, name, attribute.value):
            del node.attributes[name]


def _is_default(node: ir.Node, name: str, value: Any) -> bool:
    match name:
        case "pads":
            return set(value) == {0}
        case "dilations" | "strides":
            return set(value) == {1}
        case "kernel_shape":
            return node.op_type == "Conv"
        case "axis":
            return node.op_type == "QuantizeLinear" or (
                node.op_type == "DequantizeLinear" and not _is_vector(node.inputs[1])
            )
        case _:
            return name in _DEFAULTS and bool(value == _DEFAULTS[name])


def _is_vector(scale: ir.Value | None) -> bool:
    return scale is not None and scale.const_value is not None and len(scale.const_value.shape) > 0


def _short_names() -> Iterator[str]:
    digits = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    names: Callable[[int], str] = lambda n: digits[n % 62] if n < 62 else names(n // 62 - 1) + digits[n % 62]  # noqa: E731
    number = 0
    while True:
        yield names(number)
        number += 1
