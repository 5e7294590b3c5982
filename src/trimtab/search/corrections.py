"""Corrections of a profile's losses: a factor for each kind of decision, and for the thirds of the network.

Losses of single options are added, as if errors did not meet. How they do meet differs between channels, branches and
bits, and between early and late layers.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Annotated, NamedTuple

from pydantic import Field

from trimtab.plan import Record
from trimtab.search.profile import Profile
from trimtab.search.space import LayerShape, Option, Unit, groups_in

LEAST, MOST = 1 / 8, 8.0

Factor = Annotated[float, Field(ge=LEAST, le=MOST)]


class Factors(Record):
    """What losses are multiplied with. Only ratios decide between plans: channels and the middle third have a 1."""

    depth: Factor = 1.0
    weights: Factor = 1.0
    activations: Factor = 1.0
    early: Factor = 1.0
    late: Factor = 1.0


class Parts(NamedTuple):
    """A loss by what it comes from: channels or the branch that are gone, fewer bits of weights, and of activations."""

    removed: float
    weights: float
    activations: float


def corrected(profile: Profile, factors: Factors) -> Profile:
    """The profile with its losses multiplied; with factors of 1 the same to rounding."""
    return profile.model_copy(update={"units": tuple(_times(unit, factors, profile.layers) for unit in profile.units)})


def parts(unit: Unit) -> list[Parts]:
    """The loss of every option of a unit, in parts that add up to it.

    What is lost at the most bits comes from channels, all beyond it from bits. These are followed from option to
    option down to the fewest: what the loss rises by in a step comes from the bits that it takes away.
    """
    found = {option: Parts(option.loss, 0.0, 0.0) for option in unit.options if option.weight is None}
    for kept in dict.fromkeys(option.kept for option in unit.options):
        stored = [option for option in unit.options if option.kept == kept and option.weight is not None]
        found |= _by_bits(sorted(stored, key=lambda option: option.fineness, reverse=True))
    return [found[option] for option in unit.options]


def third(unit: Unit, layers: Sequence[LayerShape]) -> str:
    """In which third of the network's layers are, on average, those that a unit is about."""
    places = [i + 0.5 for i, layer in enumerate(layers) if unit.name in _units_of(layer)]
    if not places:
        return "middle"
    return ("early", "middle", "late")[int(3 * (sum(places) / len(places)) / len(layers))]


def _units_of(layer: LayerShape) -> Iterable[str]:
    return (layer.owner, *layer.within, *groups_in(layer.outputs))


def _by_bits(chain: Sequence[Option]) -> dict[Option, Parts]:
    """The parts of options of the same width, the one of the most bits first."""
    found = {option: Parts(option.loss, 0.0, 0.0) for option in chain[:1]}
    by_weights = by_activations = 0.0
    for before, option in pairwise(chain):
        fewer = [max(b - o, 0) for b, o in zip(before.bits, option.bits, strict=True)]
        rise = max(option.loss - before.loss, 0.0) / max(sum(fewer), 1)
        by_weights, by_activations = by_weights + rise * fewer[0], by_activations + rise * fewer[1]
        removed = min(chain[0].loss, option.loss)
        share = by_weights / (by_weights + by_activations) if by_weights + by_activations else 1.0
        beyond = option.loss - removed
        found[option] = Parts(removed, share * beyond, (1 - share) * beyond)
    return found


def _times(unit: Unit, factors: Factors, layers: Sequence[LayerShape]) -> Unit:
    place = {"early": factors.early, "middle": 1.0, "late": factors.late}[third(unit, layers)]
    removal = factors.depth if unit.branch is not None else 1.0
    options = []
    for option, part in zip(unit.options, parts(unit), strict=True):
        loss = removal * part.removed + factors.weights * part.weights + factors.activations * part.activations
        options.append(option.model_copy(update={"loss": place * loss}))
    return unit.model_copy(update={"options": tuple(options)})
