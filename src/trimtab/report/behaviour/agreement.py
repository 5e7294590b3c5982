"""How often the compressed network says what the original said, right or wrong."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from trimtab.measure.distance import divergence
from trimtab.plan.behaviour import Aspect, Check
from trimtab.report.behaviour.compared import Compared, LeftOutError
from trimtab.report.behaviour.labelled import Labelled

_ENOUGH = 20_000
"""Labels from which a temperature is found."""
_TEMPERATURES = torch.logspace(-1.5, 1.5, 61, dtype=torch.float64)


def agreement(compared: Compared, at_most: float) -> Check:
    """The share of labels that are predicted as another class; without classes, how far outputs moved.

    The latter is the root of the mean squared difference over the original's variance.
    """
    try:
        before, after = compared.labelled
    except LeftOutError:
        return _moved(compared, at_most)
    flipped = before.predicted != after.predicted
    share = float(flipped.double().mean())
    worse, better = (float((flipped & right).double().mean()) for right in (before.right, after.right))
    told, temperature = closest(before, after)
    verdict = (
        f"{100 * share:.2f} % of the predictions changed: {100 * worse:.2f} % were right and are wrong, "
        f"{100 * better:.2f} % the other way"
    )
    if share > at_most:
        verdict += "; it is another network that happens to be about as good: distil with more weight on the teacher"
    aspects = (
        Aspect(label="predictions that changed", before=None, after=share),
        Aspect(label="right before, wrong now", before=None, after=worse),
        Aspect(label="wrong before, right now", before=None, after=better),
        Aspect(label="KL divergence, nats", before=None, after=_divergence(before, after, 1.0)),
        Aspect(label=f"KL divergence at temperature {temperature:.2g}, nats", before=None, after=told),
    )
    return Check(name="agreement", measured=share, at_most=at_most, verdict=verdict, aspects=aspects)


def closest(before: Labelled, after: Labelled) -> tuple[float, float]:
    """The least mean KL(original ‖ compressed) over temperatures of the latter, and the temperature.

    What is left at the best one is no matter of being sure, which the calibration tells.
    """
    every = -(-len(before.labels) // _ENOUGH)
    before, after = before.every(every), after.every(every)
    found = [_divergence(before, after, float(temperature)) for temperature in _TEMPERATURES]
    best = min(range(len(found)), key=found.__getitem__)
    return found[best], float(_TEMPERATURES[best])


def _divergence(before: Labelled, after: Labelled, temperature: float) -> float:
    log_p, log_q = before.log_probabilities, F.log_softmax(after.log_probabilities / temperature, 1)
    return max(0.0, float((log_p.exp() * (log_p - log_q)).sum(1).mean()))


def _moved(compared: Compared, at_most: float) -> Check:
    ours, theirs = (
        [leaf for leaf in pytree.tree_leaves(each.outputs) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        for each in reversed(compared.evaluated)
    )
    if not theirs:
        raise LeftOutError("the outputs are whole numbers: there is no distance between them")
    moved = (divergence(ours, theirs) / len(theirs)) ** 0.5
    verdict = f"outputs moved by {100 * moved:.2g} % of what they vary by"
    if moved > at_most:
        verdict += "; distil with more weight on the teacher"
    aspect = Aspect(label="root mean squared difference over the standard deviation", before=None, after=moved)
    return Check(name="agreement", measured=moved, at_most=at_most, verdict=verdict, aspects=(aspect,))
