"""The statistics that the criteria of a plan need, from training data."""

from collections.abc import Collection

from trimtab.graph import Network
from trimtab.plan import Plan
from trimtab.prune.sparsify import needed_statistics
from trimtab.recover.seeding import seeded
from trimtab.search.profile import RANKING_ROWS, first_batches
from trimtab.stats import Stats, collect
from trimtab.tasks.task import Task


def stats_for(plan: Plan, network: Network, task: Task, *, seed: int = 0) -> Stats | None:
    """What `apply(network, plan, stats)` takes; None where no criterion needs any.

    Of the first training batches in the order of `seed`, of at least 1024 rows in all.
    Raises: ConfigError for an unknown criterion, and as `collect`.
    """
    return training_stats(needed_statistics(plan), network, task, seed=seed)


def training_stats(needs: Collection[str], network: Network, task: Task, *, seed: int = 0) -> Stats | None:
    """These statistics of the same batches; None for no needs. Raises: as `collect`."""
    if not needs:
        return None
    with seeded(seed, 0, task.train):
        return collect(network, list(first_batches(task.train, RANKING_ROWS)), task.loss, needs)
