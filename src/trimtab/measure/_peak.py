"""Run as a script by memory.py: `_peak.py RUNTIME FILE BATCH THREADS RUNS` prints the bytes that FILE adds to the peak.

It imports nothing of trimtab, and only the runtime that is asked for, so that torch is not in the process.
"""

import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_STATUS = Path("/proc/self/status")
_DTYPES = {"float": np.float32, "int64": np.int64, "int32": np.int32, "bool": np.bool_}


def main(runtime: str, file: str, batch: int, threads: int, runs: int) -> int:
    """Bytes of peak resident memory above what the process had before it loaded the file."""
    run = RUNTIMES[runtime]
    run(empty_network(), 1, threads, 1)
    before = begin_count()
    run(Path(file), batch, threads, runs)
    return max(0, peak() - before)


def run_onnxruntime(model: bytes | Path, batch: int, threads: int, runs: int) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    given = model if isinstance(model, bytes) else str(model)
    session = onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    feed = {v.name: zeros(v.name, v.shape, v.type[len("tensor(") : -1], batch) for v in session.get_inputs()}
    for _ in range(runs):
        session.run(None, feed)


def run_openvino(model: bytes | Path, batch: int, threads: int, runs: int) -> None:
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    compiled = core.compile_model(core.read_model(model), "CPU", settings)
    request = compiled.create_infer_request()
    feed = {}
    for value in compiled.inputs:
        shape = [size.get_length() if size.is_static else None for size in value.partial_shape]
        kind = {"f32": "float", "boolean": "bool", "i64": "int64", "i32": "int32"}[value.element_type.get_type_name()]
        feed[value.get_any_name()] = zeros(value.get_any_name(), shape, kind, batch)
    for _ in range(runs):
        request.infer(feed, share_inputs=True)


RUNTIMES: Mapping[str, Callable[[Any, int, int, int], None]] = {
    "onnxruntime": run_onnxruntime,
    "openvino": run_openvino,
}
"""Runs a file, or the bytes of `empty_network`, on zeros: (model, batch, threads, runs)."""


def zeros(name: str, declared: Sequence[Any], dtype: str, batch: int) -> np.ndarray:
    """An input of the declared shape; a dimension 0 without a size is the batch."""
    shape = [batch if place == 0 and not isinstance(size, int) else size for place, size in enumerate(declared)]
    if not all(isinstance(size, int) for size in shape):
        raise SystemExit(f"input {name!r} has the shape {list(declared)}: only dimension 0 may be without a size")
    return np.full(shape, 0, _DTYPES[dtype])  # np.zeros would not be resident until it is written to


def empty_network() -> bytes:
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "empty", [x], [y])
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()


def begin_count() -> int:
    """Resident bytes now. Linux can also forget the peak so far, which the imports have set."""
    if not _STATUS.exists():
        return peak()
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def peak() -> int:
    if _STATUS.exists():
        return status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def status(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    print(main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])))
