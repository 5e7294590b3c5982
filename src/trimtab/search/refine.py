"""Refinement: plans that the losses would give if they were multiplied, judged as they are; the best is trained.

The program adds the losses of single options. Where that is wrong in a systematic way, a few factors on the losses
put it right; which ones, is found by judging the plans that they lead to.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from trimtab.plan import Budget, Plan
from trimtab.search.corrections import corrected
from trimtab.search.fitting import Fit
from trimtab.search.order import search_in_order
from trimtab.search.plan_search import predicted
from trimtab.search.profile import Profile
from trimtab.search.sampling import Sampler
from trimtab.search.strategy import Judgement

FINALISTS = 4
"""So many plans are trained for a while, the MILP's own among them."""

_DRAWS = 4
"""So often a trial's worth of factors is drawn: different factors often lead to the same plan."""

Judge = Callable[[Plan], Judgement | None]
"""What a plan comes to; None when there is no time left to find out."""


class Value(NamedTuple):
    """What plans are ordered by: the limits on costs that are broken, the drop, and between equal drops what is lost.

    Few rows tell few drops apart. `lost` is the divergence of the outputs, or else the predicted loss.
    """

    broken: int
    drop: float
    lost: float

    @property
    def number(self) -> float:
        """In one number, for samplers: the first outweighs the second, and that the third, of metrics of usual size."""
        return 1e6 * self.broken + self.drop + 1e-6 * self.lost / (1 + self.lost)


class Ranking:
    """Orders plans by what they came to."""

    def __init__(self, profile: Profile, budget: Budget, baseline: Mapping[str, float]) -> None:
        self.profile, self.budget, self.baseline = profile, budget, baseline

    def __call__(self, plan: Plan, judged: Judgement) -> Value:
        """Less is better."""
        broken = [limit for limit in judged.broken(self.budget, self.baseline) if limit.quantity != "drop"]
        lost = predicted(self.profile, plan)["loss"] if judged.divergence is None else judged.divergence
        return Value(len(broken), judged.drop, lost)


def candidates(ranking: Ranking, fit: Fit, judge: Judge, sampler: Sampler, *, trials: int) -> list[Plan]:
    """The plans within all limits on costs among `fit`'s and up to `trials` others, the best first, as `judge` says.

    Each is the program's answer to losses that are multiplied by what `sampler` asks for, under the limits of `fit`.
    No plan is judged twice.
    """
    values = {fit.plan: ranking(fit.plan, fit.judgement)}
    for _ in range(_DRAWS * trials):
        factors = sampler.ask() if len(values) <= trials else None
        if factors is None:
            break
        # There is an answer: `fit` is one. Should rounding make it look otherwise, that one is taken.
        plan = (
            search_in_order(corrected(ranking.profile, factors), fit.budget, fit.order, tighten=fit.tighten) or fit.plan
        )
        if plan not in values:
            judged = judge(plan)
            if judged is None:
                break
            values[plan] = ranking(plan, judged)
        sampler.tell(factors, values[plan].number)
    return sorted((plan for plan, value in values.items() if not value.broken), key=values.__getitem__)


def winner(ranking: Ranking, fit: Fit, ordered: Sequence[Plan], finals: Judge) -> Plan:
    """Of `fit`'s plan and the first of `ordered`, the best by a judge who takes longer; the first of equals.

    One halving of many: the finalists get a part of the training, the winner gets all.
    Source: Jamieson & Talwalkar 2016, "Non-stochastic Best Arm Identification and Hyperparameter Optimization".
    """
    others = [plan for plan in ordered if plan != fit.plan][: FINALISTS - 1]
    values = {}
    for plan in (plan for plan in ordered if plan == fit.plan or plan in others):
        judged = finals(plan)
        if judged is None:
            break
        values[plan] = ranking(plan, judged)
    return min(values, key=values.__getitem__) if values else ordered[0]


def refined(
    profile: Profile,
    fit: Fit,
    judge: Judge,
    finals: Judge | None,
    *,
    budget: Budget,
    baseline: Mapping[str, float],
    sampler: Sampler,
    trials: int,
) -> Plan:
    """The plan to train in place of `fit`'s: the best candidate, or with `finals` the winner among the best."""
    ranking = Ranking(profile, budget, baseline)
    ordered = candidates(ranking, fit, judge, sampler, trials=trials)
    return ordered[0] if finals is None else winner(ranking, fit, ordered, finals)
