"""What compression did to a network's behaviour: six checks, each with a number, a threshold and a verdict."""

from collections.abc import Callable, Sequence

from trimtab.errors import TrimtabError
from trimtab.plan.behaviour import THRESHOLDS, Behaviour, Check, CheckName, Requirement
from trimtab.report.behaviour.agreement import agreement
from trimtab.report.behaviour.calibration import calibration
from trimtab.report.behaviour.changed import Changed as Changed
from trimtab.report.behaviour.changed import changed as changed
from trimtab.report.behaviour.classes import classes
from trimtab.report.behaviour.compared import Compared as Compared
from trimtab.report.behaviour.explanation import explanation
from trimtab.report.behaviour.overfitting import overfitting
from trimtab.report.behaviour.robustness import robustness

CHECKS: dict[CheckName, Callable[[Compared, float], Check]] = {
    "classes": classes,
    "calibration": calibration,
    "agreement": agreement,
    "robustness": robustness,
    "overfitting": overfitting,
    "explanation": explanation,
}


def behaviour(
    compared: Compared, require: Sequence[Requirement] = (), advance: Callable[[], None] = lambda: None
) -> Behaviour:
    """All checks, in order; what a task gives no occasion for, or cannot be asked for, is left out and said.

    A requirement may set another threshold than the check's own.
    """
    thresholds = THRESHOLDS | {of.check: of.at_most for of in require if of.at_most is not None}
    checks, left_out = [], {}
    for name, check in CHECKS.items():
        try:
            checks.append(check(compared, thresholds[name]))
        except TrimtabError as reason:
            left_out[name] = str(reason)
        advance()
    return Behaviour(checks=tuple(checks), left_out=left_out)
