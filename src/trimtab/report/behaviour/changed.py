"""The rows that compression changed most: what was said of them before and after, and a picture where there is one."""

from torch import Tensor
from torch.utils import _pytree as pytree

from trimtab.plan.record import Record
from trimtab.report.behaviour.compared import Compared, LeftOutError, first, inputs_of
from trimtab.report.behaviour.labelled import Labelled
from trimtab.report.behaviour.pictures import picture
from trimtab.tasks.rows import take

_SHOWN = 24


class Changed(Record):
    """A row of the test split. `picture` is a `data:` address, or empty."""

    row: int
    label: str
    before: str
    after: str
    right: bool
    picture: str


def changed(compared: Compared) -> tuple[Changed, ...]:
    """Up to 24 rows whose predicted class changed, the surest first; none without classes."""
    try:
        before, after = compared.labelled
    except LeftOutError:
        return ()
    if len(before.row.unique()) < len(before.row):
        return ()  # many labels a row: none of them is the row's
    flipped = (before.predicted != after.predicted).nonzero().flatten()
    surest = (before.confidence + after.confidence)[flipped].argsort(descending=True)[:_SHOWN]
    chosen = flipped[surest]
    pictures = _pictures(compared, before.row[chosen]) if len(chosen) else []
    return tuple(
        Changed(
            row=int(before.row[at]),
            label=str(int(before.labels[at])),
            before=_said(before, at),
            after=_said(after, at),
            right=bool(after.right[at]),
            picture=shown,
        )
        for at, shown in zip(chosen.tolist(), pictures, strict=True)
    )


def _said(of: Labelled, at: int) -> str:
    return f"{int(of.predicted[at])} ({100 * float(of.confidence[at]):.0f} %)"


def _pictures(compared: Compared, rows: Tensor) -> list[str]:
    assert compared.task.test is not None
    inputs = take(inputs_of(first(compared.task.test, int(rows.max()) + 1)), rows)
    images = [leaf for leaf in pytree.tree_leaves(inputs) if picture(leaf[0])]
    return [picture(image) for image in images[0]] if images else [""] * len(rows)
