"""Whether recovery learnt the training rows by heart."""

from trimtab.measure import drop_of, evaluate
from trimtab.plan.behaviour import Aspect, Check
from trimtab.report.behaviour.compared import Compared, first

_ROWS, _MACS, _TINY = 1000, 5e10, 1e-12


def overfitting(compared: Compared, at_most: float) -> Check:
    """By how much the gap between train and val grows, relative to the original's metric on val."""
    task = compared.task
    rows = compared.affordable(_ROWS, _MACS)
    splits = {"train": first(task.train, rows), "val": first(task.val, rows)}
    found = {
        name: [evaluate(network, batches, task.metric).value for network in (compared.before, compared.after)]
        for name, batches in splits.items()
    }
    gaps = [drop_of(train, val, task.metric) for train, val in zip(found["train"], found["val"], strict=True)]
    grown = (gaps[1] - gaps[0]) / max(abs(found["val"][0]), _TINY)
    verdict = (
        f"the gap between train and val goes from {gaps[0]:.4g} to {gaps[1]:.4g}"
        if grown <= at_most
        else f"the gap between train and val grew from {gaps[0]:.4g} to {gaps[1]:.4g}: it learnt the training rows by "
        "heart; recover for fewer epochs, or with more augmentation"
    )
    aspects = (
        *(Aspect(label=f"metric on {name}", before=pair[0], after=pair[1]) for name, pair in found.items()),
        Aspect(label="gap", before=gaps[0], after=gaps[1]),
    )
    return Check(name="overfitting", measured=max(0.0, grown), at_most=at_most, verdict=verdict, aspects=aspects)
