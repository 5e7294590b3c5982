"""`compress`: the whole picture. Capture, profile, search, apply, recover, lower, prove; and again if need be."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from trimtab.conclude import conclude
from trimtab.job import PROFILE, SHARED, Job
from trimtab.next_plan import fitting_plan, rounds_of
from trimtab.plan import Budget, Options, Result
from trimtab.report import Stages
from trimtab.search import Attempt, Proposal, best_of, nearest_rung, propose
from trimtab.tasks import Task


def compress(
    task: Task,
    *,
    budget: Budget,
    target: str = "onnxruntime",
    run: str | Path | None = None,
    seed: int = 0,
    options: Options | None = None,
    progress: Stages | None = None,
    spec: str = "",
    settings: Mapping[str, str] | None = None,
    profiled: str | Path | None = None,
) -> Result:
    """Make the task's network keep `budget` on `target`, and prove it; or say what cannot be kept, with the frontier.

    Everything is kept in the folder `run` (default `runs/<task>`): a call that was interrupted continues there.
    Choices are made on the validation split; the test split is used once, for the result. What a run in the folder
    `profiled` has found out for another budget over the same quantities is not found out again.
    Raises: TrimtabError of one line for anything that the caller can mend.
    """
    where = run or Path("runs") / task.name
    with Job.open(
        task,
        where,
        budget=budget,
        target=target,
        seed=seed,
        options=options or Options(),
        spec=spec,
        settings=settings,
        progress=progress or Stages(quiet=True),
    ) as job:
        if profiled is not None:
            job.run.adopt(profiled, SHARED, [PROFILE])
        if job.within_budget():  # the network as it is
            return conclude(job, [], [job.untouched()], 0)
        rungs = job.ladder()  # capture, profile, and plans of falling size as they are before training
        tried: list[Attempt] = []
        while proposal := propose(
            budget,
            job.baseline,
            rungs,
            tried,
            partial(fitting_plan, job),
            job.sized,
            trains=job.options.recover and not job.out_of_time(),
            rounds=rounds_of(job),
        ):  # search
            tried.append(job.carry_out(proposal, tried))  # apply, recover, lower, judge
        if not tried:  # nothing keeps the limits on costs
            nearest = Proposal(plan=nearest_rung(budget, job.baseline, rungs).plan)
            tried.append(job.carry_out(nearest, tried))
        # lower, prove, measure on the test split, report
        return conclude(job, rungs, tried, best_of(budget, job.baseline, tried))
