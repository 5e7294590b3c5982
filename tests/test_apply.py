"""A plan is applied to the network that it is for, exactly as it says, and to a copy."""

import pytest
import torch
from torch import nn

from int8_nets import ACTIVATION, WEIGHT, conv, head, plan_for
from trimtab.apply import apply, verify
from trimtab.errors import ConfigError, PlanError
from trimtab.graph import Network, capture
from trimtab.plan import BranchDecision, GroupDecision, LayerDecision, Plan, Scheme
from trimtab.quant import ActivationFakeQuantize, WeightFakeQuantize

IMAGES = torch.randn(5, 3, 8, 8)


@pytest.fixture
def network() -> Network:
    return capture(nn.Sequential(conv(3, 8), conv(8, 8), head(8)).eval(), IMAGES)


def plan(network: Network, **changes: object) -> Plan:
    return Plan(**{"fingerprint": network.fingerprint, "target": "onnxruntime", **changes})  # type: ignore[arg-type]


def decided(layer: str, **changes: object) -> tuple[LayerDecision, ...]:
    return (LayerDecision(**{"layer": layer, "weight": WEIGHT, "activation": ACTIVATION, **changes}),)  # type: ignore[arg-type]


def test_the_callers_network_stays_as_it_is(network: Network) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    code, output = network.module.code, network(IMAGES)
    group = network.groups[0]
    kept = tuple(range(0, group.width, 2))
    smaller = apply(network, plan(network, groups=(GroupDecision(group=group.name, kept=kept),), layers=decided("0.0")))
    with torch.no_grad():
        for parameter in smaller.parameters():
            parameter.fill_(7.0)
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert network.module.code == code
    assert torch.equal(network(IMAGES), output)


def test_channels_go_and_layers_are_rounded(network: Network) -> None:
    group = network.group("0.0")
    kept = (0, 2, 3, 7)
    smaller = apply(network, plan(network, groups=(GroupDecision(group=group.name, kept=kept),), layers=decided("1.0")))
    whole = network.module.get_parameter("0.0.weight")
    assert torch.equal(smaller.module.get_parameter("0.0.weight"), whole[list(kept)])
    kinds = [type(m) for m in smaller.module.modules()]
    assert kinds.count(WeightFakeQuantize) == 1
    assert kinds.count(ActivationFakeQuantize) == 2


def test_an_empty_plan_changes_nothing(network: Network) -> None:
    same = apply(network, plan(network))
    assert torch.equal(same(IMAGES), network(IMAGES))
    assert same.fingerprint == network.fingerprint


def test_a_plan_survives_json(network: Network) -> None:
    original = plan_for(network)
    again = Plan.from_json(original.to_json(), where="plan.json")
    first, second = apply(network, original), apply(network, again)
    assert first.module.code == second.module.code


def test_a_plan_for_another_network_is_refused(network: Network) -> None:
    other = capture(nn.Sequential(conv(3, 6), head(6)).eval(), IMAGES)
    with pytest.raises(PlanError, match=r"plan: it is for the network .*…, this one is .*…; "):
        apply(network, plan(other))


def test_an_unknown_layer_lists_near_matches(network: Network) -> None:
    with pytest.raises(PlanError, match=r"no layer '1\.00' in this network; did you mean 1\.0"):
        apply(network, plan(network, layers=decided("1.00")))


def test_an_unknown_group_and_an_unknown_target(network: Network) -> None:
    with pytest.raises(PlanError, match="unknown group 'nothing'"):
        apply(network, plan(network, groups=(GroupDecision(group="nothing", kept=(0,)),)))
    with pytest.raises(ConfigError, match="unknown target 'toaster'; known: "):
        apply(network, plan(network, target="toaster"))


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"weight": Scheme(grid="symmetric", bits=9, granularity=(1, -1))}, "weight"),
        ({"weight": Scheme(grid="symmetric", bits=8, granularity=(1, 9))}, "weight"),
        ({"activation": Scheme(grid="affine", bits=9)}, "activation"),
        ({"weight": ACTIVATION}, "weight"),
        ({"activation": WEIGHT}, "activation"),
    ],
)
def test_a_scheme_that_the_target_does_not_execute_is_refused(
    network: Network, changes: dict[str, Scheme], kind: str
) -> None:
    with pytest.raises(PlanError, match=rf"0\.0: {kind} .* is not executed by target 'onnxruntime'; for .* it has: "):
        apply(network, plan(network, layers=decided("0.0", **changes)))


class Residual(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + super().forward(x))


@pytest.fixture
def residual() -> Network:
    return capture(nn.Sequential(conv(3, 8), Residual(conv(8, 6), conv(6, 8)), head(8)).eval(), IMAGES)


def without(network: Network, *branches: str, **changes: object) -> Plan:
    return plan(network, branches=tuple(BranchDecision(branch=b, removed=True) for b in branches), **changes)


def test_a_branch_goes_and_a_group_inside_it_is_harmless(residual: Network) -> None:
    (branch,) = residual.branches
    groups = tuple(GroupDecision(group=group, kept=(0, 3, 5)) for group in ("0.0", "1.0.0"))
    decided_plan = without(residual, branch.name, groups=groups, layers=decided("0.0"))
    assert verify(residual, decided_plan).exact
    smaller = apply(residual, decided_plan)
    assert [layer.name for layer in smaller.layers] == ["0.0", "2.2"]
    assert smaller.module.get_parameter("2.2.weight").shape == (5, 3)
    kept = apply(residual, plan(residual, branches=(BranchDecision(branch=branch.name, removed=False),)))
    assert kept.fingerprint == residual.fingerprint


def test_branches_that_do_not_fit_are_refused(residual: Network) -> None:
    for function in (apply, verify):
        with pytest.raises(PlanError, match="unknown branch '2'; near matches: 1"):
            function(residual, without(residual, "2"))
    with pytest.raises(PlanError, match=r"plan: 1\.1\.0: it is in the removed branch '1'; leave the layer out"):
        apply(residual, without(residual, "1", layers=decided("1.1.0")))


def test_the_second_call_of_a_shared_weight_is_not_decided_alone() -> None:
    shared = nn.Linear(4, 4)
    network = capture(nn.Sequential(shared, nn.ReLU(), shared), torch.randn(5, 4))
    first, second = (layer.name for layer in network.layers)
    with pytest.raises(PlanError, match=f"{second}: it shares the weight of '{first}'"):
        apply(network, plan(network, layers=decided(second)))
