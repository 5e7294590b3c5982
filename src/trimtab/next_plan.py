"""The next plan of a job: of a size, or within all limits on costs; refined, and with what trained plans taught."""

from collections.abc import Callable, Sequence
from typing import Any

from trimtab.job import Job
from trimtab.plan import Plan
from trimtab.search import (
    FINALISTS,
    Attempt,
    Fit,
    Judgement,
    corrected,
    find_fit,
    learnt,
    refined,
    sampler,
)
from trimtab.tasks.rows import batches_in
from trimtab.tasks.shorter import shortened

_ROUNDS = 3
_BRIEF, _LEAST_STEPS = 1 / 8, 32
"""The share of the training that the finalists of a refinement get, and so many steps at least."""
_REFINING = 0.5
"""The share of `minutes` after which refinement ends."""


def rounds_of(job: Job) -> int | None:
    """How many attempts there may be; None: as many as there is time for."""
    return job.options.rounds or (_ROUNDS if job.options.minutes is None else None)


def fitting_plan(job: Job, tried: Sequence[Attempt]) -> Plan | None:
    """The plan of least predicted loss whose artifact, as written and timed, keeps every limit but the drop.

    With `refine` the best plan that is found around it. After attempts from which something was learnt about the
    profile, the plan of the profile that is put right; after others, none.
    """
    profile, baseline, factors = job.profile, job.baseline, learnt(job.profile, tried)
    if tried and factors is None:
        return None
    with job.stage("search"):
        profile = profile if factors is None else corrected(profile, factors)
        fit = find_fit(profile, job.budget, baseline, job.judged, job.options.order)
    if fit is None or tried or job.options.refine == "none":
        return None if fit is None else fit.plan
    plan = job.run.remember("refined", lambda: _refined(job, fit).to_json())
    return Plan.from_json(plan, where=f"{job.run.path}: refined")


def _refined(job: Job, fit: Fit) -> Plan:
    trials, trains = job.options.trials, job.options.recover
    with job.stage("refine", total=trials + FINALISTS * trains) as advance:
        return refined(
            job.profile,
            fit,
            _in_time(job, "judged", job.judged, advance),
            _in_time(job, "briefly trained", lambda plan: _briefly_trained(job, plan), advance) if trains else None,
            budget=job.budget,
            baseline=job.baseline,
            sampler=sampler(job.options.refine, seed=job.seed, trials=trials),
            trials=trials,
        )


def _in_time(
    job: Job, kind: str, judge: Callable[[Plan], Judgement], advance: Any
) -> Callable[[Plan], Judgement | None]:
    """`judge`, who gives no more judgements than are there already when the time for refinement is over."""

    def judged(plan: Plan) -> Judgement | None:
        known = f"{kind} {plan.to_json()}" in job.run
        found = judge(plan) if known or not job.out_of_time(_REFINING) else None
        advance()
        return found

    return judged


def _briefly_trained(job: Job, plan: Plan) -> Judgement:
    """What the plan comes to after an eighth of the training."""

    def compute() -> dict[str, Any]:
        steps = max(_LEAST_STEPS, round(_BRIEF * job.epochs * batches_in(job.task.train)))
        epochs, task = shortened(job.task, steps)
        network = job.train(job.settled(plan), plan, task, epochs=epochs, seed=job.seed)
        return job.judgement_of(network, plan).model_dump()

    return Judgement(**job.run.remember(f"briefly trained {plan.to_json()}", compute))
