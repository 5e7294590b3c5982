"""An ONNX file as something that can be called: torch tensors in, torch tensors out, executed by ONNX Runtime."""

import tempfile
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from trimtab.errors import LoweringError
from trimtab.plan import Target


class Artifact:
    """What the user ships. `artifact(*inputs)` takes what the network took and gives what it gave.

    `origins` maps names in the file to what they were called in the network; empty for a file from elsewhere.
    """

    def __init__(
        self,
        path: Path,
        target: Target,
        *,
        restore: Callable[[list[Tensor]], Any] | None = None,
        origins: Mapping[str, str] | None = None,
        threads: int | None = None,
    ) -> None:
        self.path, self.target = Path(path), target
        self.threads = threads or target.threads
        self.origins = dict(origins or {})
        self._restore = restore

    @property
    def file_bytes(self) -> int:
        """Size of the file that the target loads."""
        return self.path.stat().st_size

    def with_threads(self, threads: int) -> "Artifact":
        """The same file, executed with another number of threads."""
        return Artifact(self.path, self.target, restore=self._restore, origins=self.origins, threads=threads)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run one batch. Keyword inputs go by name, others by position."""
        names = [value.name for value in self._session.get_inputs()]
        if kwargs:
            feed = {name: value.numpy() for name, value in kwargs.items()}
        else:
            feed = {name: value.numpy() for name, value in zip(names, pytree.tree_leaves(args), strict=True)}
        outputs = [torch.from_numpy(array) for array in self._session.run(None, feed)]
        if self._restore is not None:
            return self._restore(outputs)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        return _open(self.path, self.threads)

    def optimized(self) -> onnx.ModelProto:
        """The graph after the runtime's own fusions, before it picks memory layouts (which renames values)."""
        with tempfile.TemporaryDirectory() as folder:
            written = Path(folder) / "optimized.onnx"
            _open(self.path, self.threads, optimized=written)
            return onnx.load(written)


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
