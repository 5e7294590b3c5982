"""The statistics that the criteria of a plan need, from training data."""

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
    needs = needed_statistics(plan)
    if not needs:
        return None
    with seeded(seed, 0, task.train):
        return collect(network, list(first_batches(task.train, RANKING_ROWS)), task.loss, needs)
