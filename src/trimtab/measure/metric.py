"""The task's metric over a whole split, and how sure a difference of two metrics is."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.errors import NumericsError, TaskError
from trimtab.plan import Drop
from trimtab.tasks.rows import concatenate, count, describe, take, tensors
from trimtab.tasks.switches import evaluating, limit_threads
from trimtab.tasks.task import Loader, call


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """`value` of the metric over all rows of a loader, and the outputs and targets it was computed from, by row."""

    value: float
    outputs: Any
    targets: Any


def evaluate(forward: Callable[..., Any], loader: Loader, metric: Any) -> Evaluation:
    """Run `forward` over the loader, in eval mode and without gradients, and apply the metric to all rows at once.

    Raises: NumericsError for NaN in the outputs; TaskError for an empty loader, or a metric that fails or is no number.
    """
    outputs: list[Any] = []
    targets: list[Any] = []
    # no_grad rather than inference_mode: the outputs may become a teacher's targets in a loss.
    with torch.no_grad(), evaluating(forward):
        for inputs, target in loader:
            output = call(forward, inputs)
            if any(leaf.isnan().any() for leaf in tensors(output)):
                raise NumericsError(
                    f"evaluate: NaN in the outputs for batch {len(outputs)}, inputs {describe(inputs)}; "
                    "check the weights, the scales and the data"
                )
            outputs.append(output)
            targets.append(target)
    if not outputs:
        raise TaskError("evaluate: the loader is empty; give at least one batch")
    all_outputs, all_targets = concatenate(outputs), concatenate(targets)
    return Evaluation(value=_value(metric, all_outputs, all_targets), outputs=all_outputs, targets=all_targets)


def higher_is_better(metric: Any) -> bool:
    """What a torchmetrics metric says of itself; a plain function is better when higher."""
    return getattr(metric, "higher_is_better", None) is not False


def drop_of(baseline: float, compressed: float, metric: Any) -> float:
    """How much worse `compressed` is, in the metric's unit: positive is worse, whichever way the metric points.

    Rounded to 12 places, so that 0.98 - 0.97 keeps a limit of 0.01.
    """
    return round(baseline - compressed if higher_is_better(metric) else compressed - baseline, 12)


def bootstrap_drop(
    baseline: Evaluation,
    compressed: Evaluation,
    metric: Any,
    seed: int = 0,
    resamples: int = 1000,
    confidence: float | None = None,
) -> Drop:
    """The drop, with the 95 % interval of the paired bootstrap: both networks are resampled at the same rows.

    With a `confidence` (0..1) also the bound that such a share of the resamples keeps.
    Resamples on which the metric is undefined (NaN, as when a class is absent) are left out.
    Raises: TaskError when the evaluations differ in rows; NumericsError when over a tenth of the resamples is NaN.
    Source: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", percentile interval (ch. 13).
    """
    rows = count(baseline.outputs)
    if count(compressed.outputs) != rows:
        raise TaskError(
            f"bootstrap: both must be evaluated on the same rows, got {rows} and {count(compressed.outputs)}"
        )
    generator = torch.Generator().manual_seed(seed)

    def resampled() -> float:
        index = torch.randint(rows, (rows,), generator=generator)
        targets = take(baseline.targets, index)
        before = _apply(metric, take(baseline.outputs, index), targets)
        after = _apply(metric, take(compressed.outputs, index), targets)
        return drop_of(before, after, metric)

    with limit_threads(1):  # thousands of small operations, which threads only slow down
        drops = [resampled() for _ in range(resamples)]
    finite = [drop for drop in drops if math.isfinite(drop)]
    if len(finite) < 0.9 * resamples:
        raise NumericsError(f"bootstrap: the metric is NaN on {resamples - len(finite)} of {resamples} resamples")
    places = torch.tensor([0.025, 0.975, confidence or 0.5], dtype=torch.float64)
    low, high, bound = torch.tensor(finite, dtype=torch.float64).quantile(places).tolist()
    return Drop(
        value=drop_of(baseline.value, compressed.value, metric),
        ci95=(low, high),
        confidence=confidence,
        bound=None if confidence is None else bound,
    )


def _value(metric: Any, outputs: Any, targets: Any) -> float:
    value = _apply(metric, outputs, targets)
    if not math.isfinite(value):
        raise NumericsError(
            f"metric: it is {value} for outputs {describe(outputs)} and targets {describe(targets)}; it must be finite"
        )
    return value


def _apply(metric: Any, outputs: Any, targets: Any) -> float:
    try:
        value = _computed(metric, outputs, targets)
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.item()
    except Exception as error:
        said = str(error).strip().partition("\n")[0]
        raise TaskError(
            f"metric: it raised {type(error).__name__} for outputs {describe(outputs)} "
            f"and targets {describe(targets)}: {said}"
        ) from error
    if isinstance(value, Tensor) or not hasattr(value, "__float__"):
        raise TaskError(f"metric: it must give one number, got {describe(value)} for outputs {describe(outputs)}")
    return float(value)


def _computed(metric: Any, outputs: Any, targets: Any) -> Any:
    """A torchmetrics metric keeps state, so a clone is used and the caller's stays as it is."""
    if not (hasattr(metric, "update") and hasattr(metric, "compute")):
        return metric(outputs, targets)
    fresh = metric.clone()
    for part in fresh.modules() if isinstance(fresh, nn.Module) else ():
        vars(part)["distributed_available_fn"] = _alone
    fresh.reset()
    fresh.update(outputs, targets)
    return fresh.compute()


def _alone() -> bool:
    """All rows are here, so a torchmetrics metric need not gather those of other processes."""
    return False
