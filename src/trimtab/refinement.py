"""Refinement of a job's plan: others like it are judged as they are, untrained, and the best trained for a while.

On the validation split, or by cross-validation on folds of train and val, where val has too few rows to tell.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from statistics import fmean
from typing import Any

from trimtab.graph import Network
from trimtab.job import Job
from trimtab.plan import Plan
from trimtab.search import FINALISTS, Fit, Judgement, refined, sampler
from trimtab.tasks import folds
from trimtab.tasks.rows import batches_in
from trimtab.tasks.shorter import shortened

_BRIEF, _LEAST_STEPS = 1 / 8, 32
"""The share of the training that the finalists get, and so many steps at least."""
_REFINING = 0.5
"""The share of `minutes` after which refinement ends."""


def refine(job: Job, fit: Fit) -> Plan:
    """The plan to train in place of `fit`'s, as the job's options say."""
    trials, trains = job.options.trials, job.options.recover
    with job.stage("refine", total=1 + trials + FINALISTS * trains) as advance:
        judges = _Judges(job, advance)
        own = judges.untrained(fit.plan) or fit.judgement
        return refined(
            job.profile,
            fit._replace(judgement=own),
            judges.untrained,
            judges.briefly_trained if trains else None,
            budget=job.budget,
            baseline=job.baseline,
            sampler=sampler(job.options.refine, seed=job.seed, trials=trials),
            trials=trials,
        )


class _Judges:
    """What plans come to, on the job's own rows or as the mean over folds of them; each plan once in a run.

    When the time for refinement is over, only what is known already.
    """

    def __init__(self, job: Job, advance: Callable[[], None]) -> None:
        self._job, self._advance = job, advance
        self._where = "" if job.options.folds is None else f" on {job.options.folds} folds"

    def untrained(self, plan: Plan) -> Judgement | None:
        """What the plan comes to as it is."""
        return self._judged("judged", plan, lambda job: job.settled(plan))

    def briefly_trained(self, plan: Plan) -> Judgement | None:
        """What it comes to after an eighth of the training."""
        return self._judged("briefly trained", plan, lambda job: _briefly_trained(job, plan))

    def _judged(self, kind: str, plan: Plan, carried_out: Callable[[Job], Network]) -> Judgement | None:
        def compute() -> dict[str, Any]:
            return _mean([job.judgement_of(carried_out(job), plan) for job in self._jobs]).model_dump()

        key, run = f"{kind}{self._where} {plan.to_json()}", self._job.run
        if key not in run and self._job.out_of_time(_REFINING):
            return None
        found = Judgement(**run.remember(key, compute))
        self._advance()
        return found

    @cached_property
    def _jobs(self) -> list[Job]:
        job = self._job
        if job.options.folds is None:
            return [job]
        return [job.on(task) for task in folds(job.task, job.options.folds, job.seed)]


def _briefly_trained(job: Job, plan: Plan) -> Network:
    steps = max(_LEAST_STEPS, round(_BRIEF * job.epochs * batches_in(job.task.train)))
    epochs, task = shortened(job.task, steps)
    return job.train(job.settled(plan), plan, task, epochs=epochs, seed=job.seed)


def _mean(found: Sequence[Judgement]) -> Judgement:
    """The costs are those of the first: a plan has the same wherever it is trained."""
    moved = [each.divergence for each in found if each.divergence is not None]
    return Judgement(
        costs=found[0].costs, drop=fmean(each.drop for each in found), divergence=fmean(moved) if moved else None
    )
