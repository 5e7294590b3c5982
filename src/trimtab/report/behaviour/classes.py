"""Which class paid: the change of each class's recall beside the change of all, with simultaneous intervals."""

import torch
from scipy.stats import norm
from torch import Tensor

from trimtab.plan.behaviour import Aspect, Check
from trimtab.report.behaviour.compared import Compared, LeftOutError

_RESAMPLES = 500
_ENOUGH = 10
"""Labels that a class must have to be judged."""
_CONFIDENCE = 0.95


def classes(compared: Compared, at_most: float) -> Check:
    """By how much the recall of a class surely falls more than that of all: the most of any class, in 0..1.

    Intervals are those of the paired bootstrap over rows, widened so that all of them hold at once.
    Source: Bonferroni's inequality; Hooker et al. 2019, "What Do Compressed Deep Neural Networks Forget?".
    """
    before, after = compared.labelled
    number, right_before, right_after = (
        _by_row(before.labels, before.row, before.classes, counts)
        for counts in (torch.ones(len(before.labels)), before.right, after.right)
    )
    judged = number.sum(0) >= _ENOUGH
    if not bool(judged.any()):
        raise LeftOutError(f"no class has {_ENOUGH} labels")
    lost = right_before - right_after
    drop = lost.sum(0) / number.sum(0)
    overall = float(lost.sum() / number.sum())
    spread, spread_beyond = _spreads(lost, number, compared.seed)
    wide = float(norm.ppf(1 - (1 - _CONFIDENCE) / 2 / int(judged.sum())))
    surely = torch.where(judged, drop - overall - wide * spread_beyond, torch.tensor(-1.0).double())
    worst = int(surely.argmax())
    measured = max(0.0, float(surely[worst]))
    aspects = tuple(
        Aspect(
            label=f"class {number_of}",
            before=float(right_before[:, number_of].sum() / number[:, number_of].sum()),
            after=float(right_after[:, number_of].sum() / number[:, number_of].sum()),
            interval=(float((-drop - wide * spread)[number_of]), float((-drop + wide * spread)[number_of])),
        )
        for number_of in judged.nonzero().flatten().tolist()
    )
    return Check(
        name="classes",
        measured=measured,
        at_most=at_most,
        verdict=_verdict(measured, at_most, worst, float(drop[worst]), overall),
        aspects=aspects,
    )


def _verdict(measured: float, at_most: float, worst: int, drop: float, overall: float) -> str:
    if measured <= at_most:
        return f"no class surely loses over {100 * at_most:.3g} points more than all together ({100 * overall:.2f})"
    return (
        f"class {worst} paid: its recall falls by {100 * drop:.1f} points, that of all by "
        f"{100 * overall:.2f}; look at its examples, and give it more weight in the loss or more room in the budget"
    )


def _by_row(labels: Tensor, row: Tensor, classes_: int, values: Tensor) -> Tensor:
    """Sums of values [labels] by row and class, [rows, classes]."""
    found = torch.zeros(int(row.max()) + 1, classes_, dtype=torch.float64)
    return found.index_put_((row, labels), values.double(), accumulate=True)


def _spreads(lost: Tensor, number: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """The bootstrap's standard deviations of each class's drop, and of what it is beyond that of all [classes]."""
    generator = torch.Generator().manual_seed(seed)
    rows = len(lost)
    drops, beyond = [], []
    for _ in range(_RESAMPLES):
        weight = torch.randint(rows, (rows,), generator=generator).bincount(minlength=rows).double()
        share, count = weight @ lost, weight @ number
        drops.append(share / count.clamp(min=1))
        beyond.append(drops[-1] - share.sum() / count.sum())
    return torch.stack(drops).std(0), torch.stack(beyond).std(0)
