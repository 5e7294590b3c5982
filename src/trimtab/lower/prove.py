"""The proof: the artifact is executed in its runtime and compared with its simulation, row by row."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from trimtab.errors import NumericsError, TaskError
from trimtab.graph import Network
from trimtab.lower.artifact import Artifact
from trimtab.lower.targets import backend
from trimtab.plan import Proof
from trimtab.quant import fold
from trimtab.tasks.rows import lay_out
from trimtab.tasks.task import Loader, call, evaluating


def prove(artifact: Artifact, network: Network, loader: Loader) -> Proof:
    """Execute `artifact` on every row of `loader`; compare with two readings of the folded `network`.

    They are the simulation that matches the artifact's runtime, and the network as it was trained: fake-quantized, in
    float, biases rounded.

    Raises: TaskError without rows, NumericsError when an output is not finite.
    """
    runtime = backend(artifact.target.name)
    with evaluating(network):
        trained = fold(network.module)
    simulation = runtime.simulation(trained)
    rows = agreeing = identical = as_trained = 0
    largest = 0.0
    with torch.inference_mode():
        for inputs, _ in loader:
            executed = _finite(artifact, _flat(call(artifact, inputs)))
            laid_out = lay_out(inputs, torch.channels_last)
            simulated, fake = _flat(call(simulation.run, laid_out)), _flat(call(trained, laid_out))
            rows += len(executed[0])
            agreeing += _rows_where(_same_prediction, executed, simulated)
            identical += _rows_where(_same_row, executed, simulated)
            as_trained += _rows_where(_same_prediction, executed, fake)
            largest = max(largest, *(float((a - b).abs().max()) for a, b in zip(executed, simulated, strict=True)))
    if not rows:
        raise TaskError("prove: the data has no rows; give at least one batch")
    kernels = runtime.kernels(artifact)
    return Proof(
        executed_on=artifact.executed_on,
        integer_ops=kernels.integer,
        float_ops=kernels.floating,
        fallbacks=kernels.fallbacks,
        simulation=simulation.name,
        max_abs_diff=largest,
        agreement=agreeing / rows,
        identical_rows=identical / rows,
        training_agreement=as_trained / rows,
        rows=rows,
    )


def _finite(artifact: Artifact, outputs: list[Tensor]) -> list[Tensor]:
    if not all(bool(value.isfinite().all()) for value in outputs):
        raise NumericsError(f"{artifact.path}: an output is not finite; the artifact is not proved")
    return outputs


def _flat(outputs: Any) -> list[Tensor]:
    return [value.float() for value in pytree.tree_leaves(outputs)]


def _same_prediction(a: Tensor, b: Tensor) -> Tensor:
    """Per row: the same class everywhere; for outputs without classes, closer than 1 % of the output's spread."""
    if a.dim() > 1 and a.shape[1] > 1:
        return (a.argmax(1) == b.argmax(1)).flatten(1).all(1) if a.dim() > 2 else a.argmax(1) == b.argmax(1)
    return ((a - b).abs() <= 0.01 * (b.amax() - b.amin())).reshape(len(a), -1).all(1)


def _same_row(a: Tensor, b: Tensor) -> Tensor:
    return (a == b).reshape(len(a), -1).all(1)


def _rows_where(same: Callable[[Tensor, Tensor], Tensor], a: Iterable[Tensor], b: Iterable[Tensor]) -> int:
    """The number of rows on which all outputs are the same."""
    return int(torch.stack([same(x, y) for x, y in zip(a, b, strict=True)]).all(0).sum())
