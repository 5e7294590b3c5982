"""Run as a script by memory.py: `_peak.py FILE BATCH THREADS RUNS` prints the bytes that FILE adds to the peak.

It imports nothing of trimtab, so that torch is not in the process.
"""

import resource
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

_STATUS = Path("/proc/self/status")
_DTYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_}


def main(file: str, batch: int, threads: int, runs: int) -> int:
    """Bytes of peak resident memory above what the process had before it loaded the file."""
    run(empty_network(), 1, threads, 1)
    before = begin_count()
    run(file, batch, threads, runs)
    return max(0, peak() - before)


def run(model: bytes | str, batch: int, threads: int, runs: int) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = {value.name: zeros(value, batch) for value in session.get_inputs()}
    for _ in range(runs):
        session.run(None, feed)


def zeros(value: onnxruntime.NodeArg, batch: int) -> np.ndarray:
    """An input of the declared shape; a dimension 0 without a size is the batch."""
    shape = [batch if place == 0 and not isinstance(size, int) else size for place, size in enumerate(value.shape)]
    if not all(isinstance(size, int) for size in shape):
        raise SystemExit(f"input {value.name!r} has the shape {value.shape}: only dimension 0 may be without a size")
    return np.full(shape, 0, _DTYPES[value.type])  # np.zeros would not be resident until it is written to


def empty_network() -> bytes:
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    x, y = (helper.make_tensor_value_info(name, float32, [1]) for name in "xy")
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
    print(main(sys.argv[1], *map(int, sys.argv[2:])))
