"""From an amount to the number of pieces that each subject loses."""

from bisect import bisect_left
from collections.abc import Callable, Sequence

from trimtab.errors import ConfigError
from trimtab.measure import macs
from trimtab.plan import Amount, Count, Fraction, Quantile, Threshold
from trimtab.search.profile import Progress
from trimtab.search.pruning.allocations import Allocation, Thresholding
from trimtab.search.pruning.granularity import Granularity
from trimtab.search.pruning.subject import Queue, Subject

Removed = dict[str, int]
"""Pieces gone, by subject."""


def removed_by(
    amount: Amount, kind: Granularity, subjects: Sequence[Subject], rule: Allocation, progress: Progress
) -> Removed:
    """How many pieces each subject loses. Raises: ConfigError when the amount cannot be reached or asked of `rule`."""
    match amount:
        case Threshold(below=score):
            _thresholding(rule)
            return {s.name: s.below(score) for s in subjects}
        case Quantile(below=quantile):
            limits = _thresholding(rule).thresholds(subjects, quantile)
            return {s.name: s.below(limit) for s, limit in zip(subjects, limits, strict=True)}
        case Fraction(of="macs", removed=share):
            return _until_macs(share, kind, subjects, Queue(subjects, rule(subjects)), progress)
        case Fraction(removed=share):
            total = sum(s.pieces for s in subjects)
            wanted, asked = -int(-share * total // 1), f"{share:.1%}"
        case Count(removed=wanted):
            asked = f"{wanted}"
    return _until_pieces(wanted, asked, kind, subjects, Queue(subjects, rule(subjects)))


def _thresholding(rule: Allocation) -> Thresholding:
    if not isinstance(rule, Thresholding):
        raise ConfigError(
            "prune: a threshold or a quantile already says how much each layer loses; give Fraction or Count, or take "
            "allocation 'uniform' (a quantile of each) or 'global' (one of all)"
        )
    return rule


def _until_pieces(wanted: int, asked: str, kind: Granularity, subjects: Sequence[Subject], queue: Queue) -> Removed:
    if wanted > queue.most:
        total = sum(s.pieces for s in subjects)
        raise ConfigError(
            f"prune: {asked} of the {total} {kind.pieces} that count cannot be removed, at most {queue.most} "
            f"({queue.most / total:.1%}); ask for less"
        )
    return queue.removed(queue.steps_for(wanted))


def _until_macs(
    share: float, kind: Granularity, subjects: Sequence[Subject], queue: Queue, progress: Progress
) -> Removed:
    """The fewest steps that leave at most the asked share, by bisection, since no step adds MACs.

    What that saves too much is given back: the last steps of a subject that the share can spare, the latest first.
    """
    full = macs(kind.asked.network)

    def saved(removed: Removed) -> int:
        return full - macs(kind.without(subjects, removed))

    most = saved(queue.removed(len(queue)))
    if most < share * full:
        raise ConfigError(
            f"prune: {share:.1%} of the MACs cannot be removed by {kind.pieces}, at most {most / full:.1%}; ask for "
            "less, leave fewer of them alone, or take smaller steps (a target's channel_multiple)"
        )
    with progress.stage("allocate", total=len(queue).bit_length() + len(subjects)) as advance:

        def saved_after(steps: int) -> int:
            advance()
            return saved(queue.removed(steps))

        steps = bisect_left(range(len(queue)), share * full, key=saved_after)
        removed = queue.removed(steps)
        for subject in queue.latest(steps):
            advance()
            removed = _given_back(subject, removed, kind, lambda fewer: saved(fewer) - share * full)
    return removed


def _given_back(subject: Subject, removed: Removed, kind: Granularity, spare: Callable[[Removed], float]) -> Removed:
    """As many of the subject's last steps undone as can be while something is spare."""
    left = spare(removed)
    while removed[subject.name]:
        fewer = removed | {subject.name: subject.before(removed[subject.name])}
        if kind.layer_macs(fewer) - kind.layer_macs(removed) > left or (left := spare(fewer)) < 0:
            return removed
        removed = fewer
    return removed
