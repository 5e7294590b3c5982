"""Whether the compressed network bears noise, blur, contrast, shift or dropped tokens as well as the original."""

from collections.abc import Callable
from statistics import fmean
from typing import Any

import torch

from trimtab.measure import drop_of, evaluate
from trimtab.plan.behaviour import Aspect, Check
from trimtab.report.behaviour.compared import Compared, LeftOutError, first, inputs_of
from trimtab.report.behaviour.corruptions import corrupted
from trimtab.tasks.rows import concatenate, count, take

_ROWS, _BATCH, _TINY = 512, 64, 1e-12
_MACS = 1.5e10
"""Of one pass; up to twelve kinds and strengths are two dozen passes."""


def robustness(compared: Compared, at_most: float) -> Check:
    """How much further the compressed network falls behind the original on corrupted inputs: on the worst kind.

    The drop on corrupted rows less the drop on the same clean rows, as a share of the original's metric on those or
    these, whichever is more; a mean over three strengths.
    """
    task = compared.task
    assert task.test is not None
    batches = first(task.test, compared.affordable(_ROWS, _MACS))
    inputs, targets = inputs_of(batches), concatenate([target for _, target in batches])

    def metrics(inputs: Any) -> tuple[float, float]:
        before, after = (_metric(of, inputs, targets, task.metric) for of in (compared.before, compared.after))
        return before, after

    clean = metrics(inputs)
    found: dict[str, list[tuple[float, float]]] = {}
    for kind, _, changed in corrupted(inputs, compared.seed):
        found.setdefault(kind, []).append(metrics(changed))
    if not found:
        raise LeftOutError("there is no input that noise or dropped tokens could happen to")
    behind = {kind: fmean(_behind(pair, clean, task.metric) for pair in pairs) for kind, pairs in found.items()}
    worst = max(behind, key=behind.__getitem__)
    means = {
        kind: (fmean(pair[0] for pair in pairs), fmean(pair[1] for pair in pairs)) for kind, pairs in found.items()
    }
    verdict = f"it bears {', '.join(found)} about as well as the original"
    if behind[worst] > at_most:
        verdict = (
            f"it bears {worst} worse: the metric is {means[worst][1]:.4g} with it, the original's "
            f"{means[worst][0]:.4g} (clean: {clean[1]:.4g} and {clean[0]:.4g}); train with such inputs"
        )
    aspects = (
        Aspect(label="metric on clean rows", before=clean[0], after=clean[1]),
        *(Aspect(label=f"metric with {kind}", before=pair[0], after=pair[1]) for kind, pair in means.items()),
    )
    return Check(name="robustness", measured=max(0.0, behind[worst]), at_most=at_most, verdict=verdict, aspects=aspects)


def _behind(corrupted_: tuple[float, float], clean: tuple[float, float], metric: Any) -> float:
    further = drop_of(*corrupted_, metric) - drop_of(*clean, metric)
    return further / max(abs(clean[0]), abs(corrupted_[0]), _TINY)


def _metric(network: Callable[..., Any], inputs: Any, targets: Any, metric: Any) -> float:
    rows = torch.arange(count(inputs)).split(_BATCH)
    return evaluate(network, [(take(inputs, index), take(targets, index)) for index in rows], metric).value
