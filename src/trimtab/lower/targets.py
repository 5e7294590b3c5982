"""The registry of targets, and the three things that one does with them: describe, lower, load."""

from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from trimtab.graph import Network
from trimtab.lower.artifact import Artifact
from trimtab.lower.contract import Backend
from trimtab.plan import Target
from trimtab.quant import fold
from trimtab.registry import Registry
from trimtab.tasks.task import evaluating

TARGETS = Registry("target", {"onnxruntime": "trimtab.lower.onnxruntime:OnnxRuntime"})
TARGETS.register("openvino", "trimtab.lower.openvino:OpenVino", extra="openvino")
TARGETS.register("executorch", "trimtab.lower.executorch:ExecuTorch", extra="executorch")
TARGETS.register("inductor", "trimtab.lower.inductor:Inductor")


def backend(name: str) -> Backend:
    """Raises: ConfigError for an unknown target, MissingPackageError when its runtime is not installed."""
    found: Backend = TARGETS.load(name)()
    return found


def target(name: str) -> Target:
    """What the target called `name` can do."""
    return backend(name).capabilities


def lower(network: Network, target: Target, path: Path) -> Artifact:
    """Write a network for `target`: integer where it is fake-quantized, float elsewhere. Raises: LoweringError."""
    with evaluating(network):
        folded = fold(network.module)
    return backend(target.name).lower(folded, network.example, Path(path), _structure(network))


def lower_float(network: Network, target: Target, path: Path) -> Artifact:
    """Write the network in float: the baseline of sizes and speeds."""
    with evaluating(network):
        return backend(target.name).lower_float(network.module, network.example, Path(path), _structure(network))


def _structure(network: Network) -> Any:
    """Puts a flat list of outputs back into the form in which the network returns them."""
    spec = network.module._out_spec
    assert spec is not None  # a captured graph has one

    def restore(outputs: list[Tensor]) -> Any:
        return pytree.tree_unflatten(outputs, spec)

    return restore


def load(name: str, path: Path) -> Artifact:
    """A file written for target `name`."""
    return backend(name).load(Path(path))
