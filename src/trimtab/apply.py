"""(Network, Plan) → Network: what the plan removes is gone, what it stores in few bits is fake-quantized."""

from difflib import get_close_matches

from trimtab.errors import PlanError
from trimtab.graph import Branch, Network, Verification, cut, without
from trimtab.graph import verify as verify_cut
from trimtab.lower import target as target_of
from trimtab.plan import PER_TENSOR, LayerDecision, Plan, Target
from trimtab.quant import insert_fake_quantization


def apply(network: Network, plan: Plan) -> Network:
    """A new network; `network` stays as it is. Its activation ranges are unknown until it is calibrated (`settle`).

    Raises: PlanError when the plan is for another network, names what is not there, or asks for what is not supported.
    """
    _check(network, plan)
    target = target_of(plan.target)
    for decision in plan.layers:
        _check_layer(network, decision, target)
    removed = _removed(network, plan)
    smaller = without(cut(network, {decision.group: decision.kept for decision in plan.groups}), removed)
    _check_layers_left(smaller, plan, removed)
    insert_fake_quantization(smaller.module, {decision.layer: decision for decision in plan.layers}, target)
    return smaller


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


def _check_layers_left(smaller: Network, plan: Plan, removed: list[Branch]) -> None:
    left = {layer.name for layer in smaller.layers}
    for decision in plan.layers:
        if decision.layer not in left:
            where = [branch.name for branch in removed if decision.layer in branch.layers]
            named = f"the removed branch {where[0]!r}" if where else "branches that are all removed"
            raise PlanError(f"plan: {decision.layer}: it is in {named}; leave the layer out, or the branch in")


def _check_layer(network: Network, decision: LayerDecision, target: Target) -> None:
    layers = {layer.name: layer for layer in network.layers}
    if decision.layer not in layers:
        near = get_close_matches(decision.layer, layers, n=3) or list(layers)[:3]
        raise PlanError(f"plan: no layer {decision.layer!r} in this network; did you mean {', '.join(near)}?")
    if decision.sparsity is not None:
        raise PlanError(f"plan: {decision.layer}: sparsity inside a layer is not supported yet; set it to null")
    if "#" in decision.layer:
        first = decision.layer.partition("#")[0]
        raise PlanError(
            f"plan: {decision.layer}: it shares the weight of {first!r}; decide {first!r} for all its calls"
        )
    operator = layers[decision.layer].operator
    for kind, scheme in (("weight", decision.weight), ("activation", decision.activation)):
        # A weight has a scale for every output channel or finer, an activation one in all.
        executed = [
            known
            for known in target.schemes_by_operator.get(operator, ())
            if (known.granularity == PER_TENSOR) == (kind == "activation")
        ]
        if scheme is not None and scheme not in executed:
            known = ", ".join(f"{s.grid} {s.bits} bits {s.granularity}" for s in executed) or "none"
            raise PlanError(
                f"plan: {decision.layer}: {kind} {scheme.grid} {scheme.bits} bits {scheme.granularity} is not executed "
                f"by target {target.name!r}; for the {kind} of a {operator} it has: {known}"
            )
