"""From a schedule to the Pruner that carries it out."""

from collections.abc import Mapping, Sequence

from trimtab.errors import ConfigError
from trimtab.graph import Network
from trimtab.plan import Dynamic, Rewind, RigL, Schedule, Sparsity
from trimtab.prune.schedules.cuts import Cuts
from trimtab.prune.schedules.goals import goals
from trimtab.prune.schedules.importance import Importance
from trimtab.prune.schedules.pruner import Aim
from trimtab.prune.schedules.pruner import Pruner as Pruner
from trimtab.prune.schedules.rewind import Rewinding
from trimtab.prune.schedules.rigl import Rigging
from trimtab.prune.schedules.surgery import Surgery
from trimtab.prune.schedules.timeline import timeline


def make_pruner(
    network: Network,
    sparsity: Mapping[str, Sparsity],
    kept: Mapping[str, Sequence[int]],
    schedule: Schedule,
    steps: int,
    seed: int = 0,
    criterion: str = "magnitude",
) -> Pruner:
    """A pruner that takes `network` (in place) to `sparsity` by layer and to the units `kept` by group.

    `steps` is the number of optimizer steps of the whole training, in which the schedule's times are shares.
    `criterion` (magnitude, taylor, movement, random) chooses entries; units leave by their L2 norm. Where units of a
    layer leave, its sparsity counts what is left of it.
    Raises: PlanError for an unknown layer or group and for a sparsity that cannot be reached, ConfigError for too few
    steps, an unknown criterion, or one of gradients with a schedule that removes before there are any.
    """
    entries, units = goals(network, sparsity, kept)
    importance = Importance(criterion, {e.parameter: e.weight for e in entries}, seed)
    when = timeline(schedule, steps)
    if importance.needs_gradients and 0 in when and entries:
        raise ConfigError(
            f"schedule {schedule.kind!r} removes before the first step, when criterion {criterion!r} has seen no "
            f"gradient; take 'magnitude', or the schedule gradual or dynamic"
        )
    aim = Aim(network=network, entries=entries, units=units, timeline=when, importance=importance)
    match schedule:
        case Dynamic():
            return Surgery(aim, schedule)
        case RigL():
            return Rigging(aim, schedule, steps)
        case Rewind():
            return Rewinding(aim, schedule, steps)
        case _:
            return Cuts(aim)
