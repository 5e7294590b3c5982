"""What each level of deciding together contributes: the allocation, the solver, the training."""

from pathlib import Path
from typing import Any

from harness import Claim
from jointly.orders import ORDERS
from jointly.trained_tasks import load
from trimtab.apply import apply
from trimtab.job import Job
from trimtab.plan import Budget, Options, Plan
from trimtab.recover import settle
from trimtab.report import Stages
from trimtab.search import Proposal, find_fit, stats_for

PROTOCOL = """\
Levels: the plan that each order finds within one size (LeNet-5 2 % of the float file, ResNet-20 10 %), and its drop on
val carried out three ways: channels cut and weights rounded to the nearest, batch norm re-estimated (what the
allocation alone is worth); solved and repaired (and the solver); then two epochs of training, together or half by half
(and the training). Seed 0.
"""
SIZES = {"LeNet-5": "2%", "ResNet-20": "10%"}
EPOCHS = 2


def run(name: str, *, folder: Path, epochs: int = EPOCHS) -> list[dict[str, Any]]:
    """One row for each order."""
    rows = []
    for order in ORDERS:
        budget, options = Budget(size=SIZES[name]), Options(epochs=epochs, order=order)
        same: dict[str, Any] = {"seed": 0, "options": options, "progress": Stages(quiet=True)}
        where = folder / f"levels-{name}-{order}"
        with Job.open(load(name, folder), where, budget=budget, target="onnxruntime", **same) as job:
            fit = find_fit(job.profile, budget, job.baseline, job.judged, order)
            assert fit is not None, f"{name}: no plan of {budget}"
            trained = job.carry_out(Proposal(plan=fit.plan), [])
            rows.append(
                {
                    "levels of": name,
                    "order": order,
                    "size, bytes": trained.judgement.costs["size"],
                    "allocation alone, drop in points": 100 * _rounded(job, fit.plan),
                    "and solved, drop in points": 100 * job.judged(fit.plan).drop,
                    "and trained, drop in points": 100 * trained.judgement.drop,
                }
            )
    return rows


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """None: the rows say where the difference comes from."""
    return []


def _rounded(job: Job, plan: Plan) -> float:
    """The drop of the plan carried out without the solver."""
    nearest = tuple(decision.model_copy(update={"solver": "nearest"}) for decision in plan.layers)
    plan = plan.model_copy(update={"layers": nearest})
    network = settle(apply(job.network, plan, stats_for(plan, job.network, job.task, seed=job.seed)), job.calibration)
    return job.judgement_of(network, plan).drop
