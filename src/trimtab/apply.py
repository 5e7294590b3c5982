"""(Network, Plan) → Network: what the plan removes is gone or zero, what it stores in few bits is fake-quantized."""

from collections.abc import Mapping
from difflib import get_close_matches

from trimtab.errors import PlanError
from trimtab.graph import Branch, Network, Verification, cut, without
from trimtab.graph import verify as verify_cut
from trimtab.lower import target as target_of
from trimtab.plan import PER_TENSOR, LayerDecision, Plan, Target
from trimtab.prune.masks import prunable
from trimtab.prune.sparsify import sparsify
from trimtab.quant import insert_fake_quantization
from trimtab.quant.grids.kernels import executes, executes_activation, grid_of
from trimtab.quant.stored import weight_reads
from trimtab.stats import Stats


def apply(network: Network, plan: Plan, stats: Stats | None = None) -> Network:
    """A new network; `network` stays as it is. Its activation ranges are unknown until it is calibrated (`settle`).

    Groups are cut and branches removed first, then weights put to zero: they are scored in `network`, by each layer's
    criterion and with `stats` of `network` where that needs them, and those that are left compete. What rounds comes
    last. Nothing holds the zeros in a training: `prepare` does, or `recover`.
    Raises: PlanError when the plan is for another network, names what is not there, or asks for what is not supported
    or cannot be reached; ConfigError for a criterion that is unknown or lacks its statistics.
    """
    target = check(network, plan)
    removed = _removed(network, plan)
    smaller = without(cut(network, {decision.group: decision.kept for decision in plan.groups}), removed)
    _check_layers_left(network, smaller, plan, removed)
    sparsify(smaller, network, plan, stats)
    insert_fake_quantization(smaller.module, {decision.layer: decision for decision in plan.layers}, target)
    return smaller


def check(network: Network, plan: Plan) -> Target:
    """The target of a plan whose layers are there and may be stored as it says.

    Raises: PlanError when it is for another network, names a layer that is not there, or asks of one what the target
    cannot execute.
    """
    _check(network, plan)
    target = target_of(plan.target)
    for decision in plan.layers:
        _check_layer(network, decision, target)
    return target


def verify(network: Network, plan: Plan) -> Verification:
    """The cut of a plan against the masked original, in float64: exact or the reason, and the largest difference.

    Of a removed branch the original multiplies by zero what it adds.
    Raises: PlanError when the plan is for another network.
    """
    _check(network, plan)
    removed = [branch.name for branch in _removed(network, plan)]
    return verify_cut(network, {decision.group: decision.kept for decision in plan.groups}, removed)


def _check(network: Network, plan: Plan) -> None:
    if plan.fingerprint != network.fingerprint:
        raise PlanError(
            f"plan: it is for the network {plan.fingerprint[:12]}…, this one is {network.fingerprint[:12]}…; "
            "use the plan's own task, or search a plan for this network"
        )


def _removed(network: Network, plan: Plan) -> list[Branch]:
    """The branches that the plan removes. Raises: PlanError for an unknown one, decided either way."""
    branches = [(network.branch(decision.branch), decision.removed) for decision in plan.branches]
    return [branch for branch, removed in branches if removed]


def _check_layers_left(network: Network, smaller: Network, plan: Plan, removed: list[Branch]) -> None:
    parameters, left = prunable(network), {*prunable(smaller), *(r.name for r in weight_reads(smaller.module))}
    for decision in plan.layers:
        if decision.layer not in left:
            where = [branch.name for branch in removed if _parameter(parameters, decision.layer) in branch.parameters]
            named = f"the removed branch {where[0]!r}" if where else "branches that are all removed"
            raise PlanError(f"plan: {decision.layer}: it is in {named}; leave the layer out, or the branch in")


def _parameter(known: Mapping[str, str], layer: str) -> str:
    """The parameter of a layer; tables are not among those that may be sparse."""
    return known.get(layer, f"{layer}.weight")


def _check_layer(network: Network, decision: LayerDecision, target: Target) -> None:
    layers = {layer.name: layer for layer in network.layers}
    others = dict.fromkeys(prunable(network), "recurrent") | {
        read.name: read.family for read in weight_reads(network.module) if read.name not in layers
    }
    names = [*layers, *(name for name in (*prunable(network), *others) if name not in layers)]
    if decision.layer not in names:
        near = get_close_matches(decision.layer, names, n=3) or names[:3]
        raise PlanError(f"plan: no layer {decision.layer!r} in this network; did you mean {', '.join(near)}?")
    if "#" in decision.layer:
        first = decision.layer.partition("#")[0]
        raise PlanError(
            f"plan: {decision.layer}: it shares the weight of {first!r}; decide {first!r} for all its calls"
        )
    if decision.sparsity is not None and decision.layer not in prunable(network):
        raise PlanError(f"plan: {decision.layer}: a table has no sparsity; set it to null")
    if decision.layer not in layers and decision.weight is None and decision.activation is None:
        return
    if decision.sparsity is not None and decision.weight is not None and not grid_of(decision.weight).zero:
        raise PlanError(
            f"plan: {decision.layer}: zeros need a grid that has zero, {decision.weight.grid!r} has none; "
            "use 'ternary', or leave sparsity out"
        )
    operator: str = layers[decision.layer].operator if decision.layer in layers else others[decision.layer]
    if decision.activation is not None and decision.activation.dynamic:
        operator = f"dynamic_{operator}"
    for kind, scheme in (("weight", decision.weight), ("activation", decision.activation)):
        # A weight has a scale for every output channel or finer, an activation one in all.
        executed = [
            known
            for known in target.schemes_by_operator.get(operator, ())
            if (known.granularity == PER_TENSOR) == (kind == "activation")
        ]
        runs = executes if kind == "weight" else executes_activation
        if scheme is not None and not any(runs(known, scheme) for known in executed):
            known = ", ".join(f"{s.grid} {s.bits} bits {s.granularity}" for s in executed) or "none"
            raise PlanError(
                f"plan: {decision.layer}: {kind} {scheme.grid} {scheme.bits} bits {scheme.granularity} is not executed "
                f"by target {target.name!r}; for the {kind} of a {operator} it has: {known}"
            )
