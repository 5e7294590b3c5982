"""What trained plans say about the profile: losses before training rank plans wrongly where training makes up for them.

Training makes up for what was removed and for what was rounded in different shares, and which is not known before.
"""

import math
from collections.abc import Sequence

from trimtab.apply import apply
from trimtab.graph import Network
from trimtab.measure import divergence, outputs_of
from trimtab.plan import Plan
from trimtab.search.corrections import LEAST, MOST, Factors, parts
from trimtab.search.plan_search import choice_of
from trimtab.search.profile import Profile
from trimtab.search.strategy import Attempt, Lesson
from trimtab.tasks.switches import evaluating
from trimtab.tasks.task import Inputs

_WORTH = 1.5
"""Below this factor, another plan is not worth a training: the one that there is is trained on."""


def learnt(profile: Profile, tried: Sequence[Attempt]) -> Factors | None:
    """What losses of bits are to be multiplied with, to compare after training with those of what is removed.

    The geometric mean over the attempts with a lesson, within 1/8 … 8. None where there is none, or it says little.
    """
    ratios = []
    for attempt in tried:
        if attempt.lesson is not None:
            removed, rounded = _predicted(profile, attempt)
            after = attempt.lesson
            if min(removed, rounded, after.removed, after.rounded) > 0:
                ratios.append(math.log((after.rounded / rounded) / (after.removed / removed)))
    if not ratios:
        return None
    factor = min(max(math.exp(sum(ratios) / len(ratios)), LEAST), MOST)
    return Factors(weights=factor, activations=factor) if abs(math.log(factor)) > math.log(_WORTH) else None


def lesson_of(network: Network, plan: Plan, original: Network, seen: Sequence[Inputs]) -> Lesson | None:
    """What a trained network still loses on the inputs `seen`; None where nothing was removed, or nothing rounded."""
    cut = plan.model_copy(update={"layers": ()})
    if not cut.thins or not plan.layers:
        return None
    unrounded = apply(original, cut)
    state = network.state_dict()
    unrounded.load_state_dict({name: state[name] for name in unrounded.state_dict()})
    outputs = []
    for each in (original, unrounded, network):
        with evaluating(each):
            outputs.append(outputs_of(each, seen))
    removed, both = (divergence(found, outputs[0]) for found in outputs[1:])
    return Lesson(removed=removed, rounded=max(both - removed, 0.0))


def _predicted(profile: Profile, attempt: Attempt) -> tuple[float, float]:
    """The profile's losses of a plan: of what is removed, and of bits."""
    removed = rounded = 0.0
    gone = {decision.branch for decision in attempt.plan.branches if decision.removed}
    for unit, index in zip(profile.units, choice_of(profile, attempt.plan), strict=True):
        if not gone.intersection(unit.within):
            part = parts(unit)[index]
            removed, rounded = removed + part.removed, rounded + part.weights + part.activations
    return removed, rounded
