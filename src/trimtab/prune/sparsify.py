"""Puts the sparsities of a plan in force: the criterion's lowest weights become zero."""

from torch import Tensor

from trimtab.errors import ConfigError
from trimtab.graph import Network, sliced
from trimtab.plan import LayerDecision, Plan
from trimtab.prune import CRITERIA, EntryCriterion
from trimtab.prune.granularity import check, keep
from trimtab.prune.masks import hold, prunable
from trimtab.stats import Stats


def sparsify(smaller: Network, network: Network, plan: Plan, stats: Stats | None) -> None:
    """Put weights of `smaller` to zero, in place, as the plan's layer decisions say.

    `smaller` is what the plan's cuts leave of `network`. Weights are scored in `network`, which `stats` are of; those
    that the cuts left compete, so that each layer has the share of zeros that it was given.
    Raises: PlanError for a sparsity that a layer cannot reach, ConfigError for a criterion that does not score single
    weights or whose statistics are not there.
    """
    kept = {decision.group: decision.kept for decision in plan.groups}
    known, parameters = prunable(network), dict(smaller.named_parameters())
    masks = {}
    for decision in plan.layers:
        if decision.sparsity is not None:
            name = known[decision.layer]
            check(f"plan: {decision.layer}", parameters[name].shape, decision.sparsity)
            scores = sliced(network, {name: entry_scores(network, name, decision, stats)}, kept)[name]
            masks[name] = keep(scores, decision.sparsity).to(parameters[name].device)
    hold(parameters, masks)


def entry_scores(network: Network, parameter: str, decision: LayerDecision, stats: Stats | None) -> Tensor:
    """The decision's criterion on the single weights of a parameter, in its shape, float64; higher means keep."""
    criterion = CRITERIA.load(decision.criterion)()
    if not isinstance(criterion, EntryCriterion):
        raise ConfigError(
            f"plan: {decision.layer}: criterion {decision.criterion!r} does not score single weights; known that do: "
            f"{', '.join(name for name in CRITERIA if isinstance(CRITERIA.load(name)(), EntryCriterion))}"
        )
    if criterion.needs and stats is None:
        needs = ", ".join(sorted(criterion.needs))
        raise ConfigError(
            f"plan: {decision.layer}: criterion {decision.criterion!r} needs statistics ({needs}); give apply(…, "
            "stats=collect(network, batches, loss, needs)), or take 'magnitude'"
        )
    return criterion.entries(network, parameter, stats or Stats())


def needed_statistics(plan: Plan) -> frozenset[str]:
    """The statistics that the criteria of the plan's sparsities need."""
    criteria = {decision.criterion for decision in plan.layers if decision.sparsity is not None}
    return frozenset[str]().union(*(CRITERIA.load(name).needs for name in criteria))
