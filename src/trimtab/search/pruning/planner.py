"""`tt.prune`: from an amount to a plan."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

from trimtab.errors import ConfigError
from trimtab.graph import Network
from trimtab.lower import target as target_of
from trimtab.plan import Amount, Fraction, NofM, Plan, Quantile, Target
from trimtab.search.profile import Progress, Silent
from trimtab.search.pruning.allocations import ALLOCATIONS, Allocation
from trimtab.search.pruning.amounts import removed_by
from trimtab.search.pruning.branches import Branches
from trimtab.search.pruning.channels import Channels
from trimtab.search.pruning.curves import Curves, measure_points
from trimtab.search.pruning.entries import Entries, n_of_m_plan
from trimtab.search.pruning.granularity import Asked, Granularity, sparsity_of
from trimtab.search.pruning.subject import Subject
from trimtab.stats import Stats
from trimtab.tasks.task import Inputs

Batches = Iterable[tuple[Inputs, Any]]


def prune(
    network: Network,
    amount: Amount | None = None,
    *,
    granularity: str = "channels",
    criterion: str = "magnitude",
    allocation: str = "global",
    stats: Stats | None = None,
    batches: Batches | None = None,
    curves: Curves | None = None,
    leave: Collection[str] = (),
    target: str | Target = "onnxruntime",
    seed: int = 0,
    progress: Progress | None = None,
) -> Plan:
    """A plan that removes `amount` of a network; nothing is trained, and `network` stays as it is.

    `granularity`: channels (heads and neurons too), branches, weights, kernels, "4x4" (tiles, out × in), or "2:4",
    which takes no amount. `criterion` ranks the pieces, with `stats` where it needs them; `allocation` decides how many
    each group or layer loses. "sensitivity" measures on `batches`, or takes `curves` measured before. Groups, layers or
    branches in `leave` lose nothing. Widths are multiples of what the graph and `target` want.
    At least the asked share or count leaves, by the fewest steps; of `Fraction(of="macs")` never more MACs stay than
    asked for. Pieces of what can lose none (`leave`, all but one factor of a product, layers that a tile does not
    divide) do not count.
    Raises: ConfigError for what is unknown, does not go together, or cannot be reached.
    """
    asked = _asked(network, criterion, stats, leave, target, seed)
    sparsity = sparsity_of(granularity)
    if isinstance(sparsity, NofM):
        if amount is not None:
            raise ConfigError(f"prune: {granularity} says itself how much it removes; leave the amount out")
        return n_of_m_plan(asked, sparsity)
    if amount is None:
        raise ConfigError(f"prune: {granularity} needs an amount; give Fraction(removed=0.5), for instance")
    rule: Allocation = ALLOCATIONS.load(allocation)()
    kind = _kind(granularity, asked, measures=rule.measures)
    if _counts_macs(amount) and isinstance(kind, Entries):
        raise ConfigError(f"prune: zeros leave the MACs as they are; ask for a share of the {kind.pieces} themselves")
    subjects = kind.subjects(_left_by(amount))
    if not any(len(subject.removals) for subject in subjects):
        raise ConfigError(f"prune: no {kind.pieces} here may be removed; `trimtab inspect` says what may, and why not")
    progress = progress or Silent()
    if rule.measures:
        curves = curves or _measured(kind, subjects, batches or (), progress)
        curves.check(network.fingerprint, kind.pieces, kind.criterion, subjects)
        subjects = [replace(subject, curve=curves.points.get(subject.name, subject.curve)) for subject in subjects]
    if _counts_macs(amount):
        subjects = [replace(subject, cost=_macs_a_piece(kind, subject)) for subject in subjects]
    return kind.plan(subjects, removed_by(amount, kind, subjects, rule, progress))


def measure_curves(
    network: Network,
    batches: Batches,
    *,
    granularity: str = "channels",
    criterion: str = "magnitude",
    stats: Stats | None = None,
    leave: Collection[str] = (),
    target: str | Target = "onnxruntime",
    progress: Progress | None = None,
) -> Curves:
    """The curves of everything that can lose pieces, to be given to `prune` as often as one likes.

    Raises: ConfigError as `prune`, TaskError for no batches, NumericsError for outputs that are not finite.
    """
    kind = _kind(granularity, _asked(network, criterion, stats, leave, target, 0), measures=True)
    return _measured(kind, kind.subjects(), batches, progress or Silent())


def _asked(
    network: Network, criterion: str, stats: Stats | None, leave: Collection[str], target: str | Target, seed: int
) -> Asked:
    return Asked(
        network=network,
        target=target_of(target) if isinstance(target, str) else target,
        criterion=criterion,
        stats=stats,
        leave=frozenset(leave),
        seed=seed,
    )


def _kind(granularity: str, asked: Asked, *, measures: bool) -> Granularity:
    sparsity = sparsity_of(granularity)
    if isinstance(sparsity, NofM):
        raise ConfigError(f"prune: {granularity} leaves nothing to allocate, so there are no curves of it")
    if sparsity is not None:
        return Entries(asked, granularity, sparsity)
    return Channels(asked) if granularity == "channels" else Branches(asked, scored=not measures)


def _counts_macs(amount: Amount) -> bool:
    return isinstance(amount, Fraction) and amount.of == "macs"


def _left_by(amount: Amount) -> float:
    """About the share that an amount leaves; one half where that cannot be told."""
    match amount:
        case Fraction(removed=share) | Quantile(below=share):
            return 1 - share
        case _:
            return 0.5


def _measured(kind: Granularity, subjects: Sequence[Subject], batches: Batches, progress: Progress) -> Curves:
    by_name = {subject.name: subject for subject in subjects}
    points = measure_points(
        kind.asked.network,
        subjects,
        lambda name, pieces: kind.without([by_name[name]], {name: pieces}),
        batches,
        progress,
    )
    return Curves(
        fingerprint=kind.asked.network.fingerprint,
        granularity=kind.pieces,
        criterion=kind.criterion,
        points=points,
    )


def _macs_a_piece(kind: Granularity, subject: Subject) -> float:
    """What one piece of a subject saves on average when nothing else is removed."""
    gone = int(subject.removals[-1]) if len(subject.removals) else 0
    return (kind.layer_macs({}) - kind.layer_macs({subject.name: gone})) / max(gone, 1)
