"""The next plan of a job: of a size, or within all limits on costs; refined, and with what trained plans taught."""

from collections.abc import Sequence

from trimtab.job import Job
from trimtab.plan import Plan
from trimtab.refinement import refine
from trimtab.search import Attempt, corrected, find_fit, learnt

_ROUNDS = 3


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
    plan = job.run.remember("refined", lambda: refine(job, fit).to_json())
    return Plan.from_json(plan, where=f"{job.run.path}: refined")
