"""The proof: the artifact is executed in its runtime and compared with both simulations, row by row."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from trimtab.errors import NumericsError, TaskError
from trimtab.graph import Network
from trimtab.lower.artifact import Artifact
from trimtab.lower.targets import backend
from trimtab.plan import Proof
from trimtab.quant import IntegerSimulation, fold
from trimtab.tasks.rows import lay_out
from trimtab.tasks.task import Loader, call, evaluating


def prove(artifact: Artifact, network: Network, loader: Loader) -> Proof:
    """Execute `artifact` on every row of `loader`; compare with both readings of the folded `network`.

    They are the float simulation (fake-quantized, biases rounded as the runtime rounds them) and the integer one.

    Raises: TaskError without rows, NumericsError when an output is not finite.
    """
    with evaluating(network):
        simulation = fold(network.module)
    integer = IntegerSimulation(simulation)
    rows = agreeing = identical = 0
    largest = 0.0
    finite = True
    with torch.inference_mode():
        for inputs, _ in loader:
            executed = _flat(call(artifact, inputs))
            laid_out = lay_out(inputs, torch.channels_last)
            simulated, exact = _flat(call(simulation, laid_out)), _flat(call(integer, laid_out))
            rows += len(executed[0])
            agreeing += int(_all_rows(_same_prediction(a, b) for a, b in zip(executed, simulated, strict=True)).sum())
            identical += int(_all_rows(_same_row(a, b) for a, b in zip(executed, exact, strict=True)).sum())
            finite = finite and all(bool(value.isfinite().all()) for value in (*executed, *simulated))
            largest = max(largest, *(float((a - b).abs().max()) for a, b in zip(executed, simulated, strict=True)))
    if not rows:
        raise TaskError("prove: the data has no rows; give at least one batch")
    if not finite:
        raise NumericsError(f"{artifact.path}: an output is not finite; the artifact is not proved")
    kernels = backend(artifact.target.name).kernels(artifact)
    return Proof(
        executed_on=executed_on(artifact),
        integer_ops=kernels.integer,
        float_ops=kernels.floating,
        fallbacks=kernels.fallbacks,
        max_abs_diff=largest,
        agreement=agreeing / rows,
        identical_rows=identical / rows,
        rows=rows,
    )


def executed_on(artifact: Artifact) -> str:
    """Runtime and version, and the number of threads."""
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__}, CPU, {artifact.threads} thread(s)"


def _flat(outputs: Any) -> list[Tensor]:
    return [value.float() for value in pytree.tree_leaves(outputs)]


def _same_prediction(a: Tensor, b: Tensor) -> Tensor:
    """Per row: the same class everywhere; for outputs without classes, closer than 1 % of the output's spread."""
    if a.dim() > 1 and a.shape[1] > 1:
        return (a.argmax(1) == b.argmax(1)).flatten(1).all(1) if a.dim() > 2 else a.argmax(1) == b.argmax(1)
    return ((a - b).abs() <= 0.01 * (b.amax() - b.amin())).reshape(len(a), -1).all(1)


def _same_row(a: Tensor, b: Tensor) -> Tensor:
    return (a == b).reshape(len(a), -1).all(1)


def _all_rows(checks: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(checks)).all(0)
