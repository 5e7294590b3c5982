"""Codes found by a plan's solvers: they lie on the grid, keep zeros, and bring the network nearer to the original."""

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import trimtab as tt
from trimtab.errors import ConfigError, PlanError
from trimtab.graph import Network
from trimtab.plan import PER_CHANNEL, PER_NETWORK, PER_TENSOR, GroupDecision, LayerDecision, Plan, Scheme, Weights
from trimtab.quant import GRIDS, ActivationFakeQuantize, WeightFakeQuantize, insert_fake_quantization
from trimtab.recover.segments import segments

SOLVERS = ("nearest", "least_squares", "gptq", "coordinate_descent", "adaround", "block", "joint")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.conv1 = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        x = F.relu(self.bn2(self.conv2(F.relu(self.conv1(x)))) + x)
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    model = Net()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.2, 1)
            nn.init.uniform_(module.weight, -1.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return tt.capture(model.eval(), torch.randn(2, 2, 6, 6))


def plan_for(network: Network, weight: Scheme, activation: Scheme | None = None, **choices: Any) -> Plan:
    decisions = tuple(
        LayerDecision(layer=layer.name, weight=weight, activation=activation, **choices) for layer in network.layers
    )
    return Plan(fingerprint=network.fingerprint, target="onnxruntime", layers=decisions)


def rounded(network: Network, plan: Plan) -> Network:
    """What `apply` makes, whether a target runs it or not."""
    copy = network.clone()
    for decision in plan.layers:
        if decision.sparsity is not None:
            weight = copy.module.get_parameter(f"{decision.layer}.weight")
            with torch.no_grad():
                weight[weight.abs() < weight.abs().flatten().quantile(0.4)] = 0
    decisions = {decision.layer: decision for decision in plan.layers}
    insert_fake_quantization(copy.module, decisions, tt.target("onnxruntime"))
    return Network(copy.module, copy.example)


def images(rows: int, batches: int = 1) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(rows, 2, 6, 6) for _ in range(batches)]


@torch.no_grad()
def distance(a: Network, b: Network) -> float:
    torch.manual_seed(2)
    x = torch.randn(300, 2, 6, 6)
    return float((a(x) - b(x)).square().mean() / b(x).var(0).mean())


def weights(network: Network) -> dict[str, tuple[nn.Parameter, WeightFakeQuantize]]:
    """Each layer's parameter and what rounds it."""
    found = {}
    for layer in network.layers:
        node = next(n for n in network.module.graph.nodes if n.name == layer.node).args[1]
        found[layer.name] = (
            network.module.get_parameter(layer.weight),
            network.module.get_submodule(str(node.target)),
        )
    return found


def test_better_solvers_come_nearer(network):
    batches, found = images(250, 4), {}
    for solver in SOLVERS:
        plan = plan_for(
            network,
            Scheme(grid="symmetric", bits=3, granularity=PER_CHANNEL),
            Scheme(grid="affine", bits=6),
            solver=solver,
        )
        found[solver] = distance(tt.repair(rounded(network, plan), network, plan, batches), network)
    plain = distance(tt.settle(rounded(network, plan), batches), network)
    assert found["nearest"] < plain  # the means are set right
    for solver in ("gptq", "adaround", "coordinate_descent"):
        assert found[solver] < 0.8 * found["nearest"]
    assert found["block"] < found["coordinate_descent"]


@pytest.mark.parametrize("solver", ["gptq", "coordinate_descent", "adaround", "block"])
def test_weights_are_stored_on_their_grid(network, solver):
    plan = plan_for(network, Scheme(grid="symmetric", bits=4, granularity=PER_CHANNEL), solver=solver)
    solved = tt.repair(rounded(network, plan), network, plan, images(100))
    for weight, rounding in weights(solved).values():
        torch.testing.assert_close(rounding(weight), weight, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("grid", sorted(GRIDS))
def test_every_grid_can_be_solved_for(network, grid):
    bits = {"ternary": 2, "trained_ternary": 2, "binary": 1}.get(grid, 4)
    found = {}
    for solver in ("nearest", "coordinate_descent"):
        plan = plan_for(network, Scheme(grid=grid, bits=bits, granularity=PER_CHANNEL), solver=solver)
        solved = tt.repair(rounded(network, plan), network, plan, images(200))
        found[solver] = distance(solved, network)
    assert found["coordinate_descent"] < found["nearest"]


def test_adaround_wants_even_steps(network):
    plan = plan_for(network, Scheme(grid="power_of_two", bits=4, granularity=PER_CHANNEL), solver="adaround")
    with pytest.raises(ConfigError, match="coordinate_descent"):
        tt.repair(rounded(network, plan), network, plan, images(20))


@pytest.mark.parametrize("granularity", [PER_TENSOR, PER_CHANNEL, (1, 2), PER_NETWORK])
def test_every_granularity_can_be_solved_for(network, granularity):
    found = {}
    for solver in ("nearest", "coordinate_descent"):
        plan = plan_for(network, Scheme(grid="symmetric", bits=4, granularity=granularity), solver=solver)
        fake = rounded(network, plan)
        solved = tt.repair(fake, network, plan, images(200))
        found[solver] = distance(solved, network)
        if granularity == PER_NETWORK:
            scales = {id(rounding.scale) for _, rounding in weights(solved).values()}
            assert len(scales) == 1
            torch.testing.assert_close(
                weights(solved)["conv2"][1].scale, weights(fake)["conv2"][1].scale, rtol=0, atol=0
            )
    assert found["coordinate_descent"] < found["nearest"]


@pytest.mark.parametrize("solver", ["least_squares", "gptq", "coordinate_descent", "adaround"])
def test_zeros_stay_zeros(network, solver):
    plan = plan_for(
        network,
        Scheme(grid="symmetric", bits=4, granularity=PER_CHANNEL),
        sparsity=Weights(fraction=0.4),
        solver=solver,
    )
    fake = rounded(network, plan)
    before = {name: weight.detach() == 0 for name, (weight, _) in weights(fake).items()}
    solved = tt.repair(fake, network, plan, images(200))
    for name, (weight, rounding) in weights(solved).items():
        assert not rounding(weight)[before[name]].any(), name
        assert rounding(weight)[~before[name]].any(), name
    assert distance(solved, network) < distance(tt.settle(fake, images(200)), network)


def test_only_the_layers_that_were_decided_change(network):
    scheme = Scheme(grid="symmetric", bits=4, granularity=PER_CHANNEL)
    decision = LayerDecision(layer="conv2", weight=scheme, solver="coordinate_descent")
    plan = Plan(fingerprint=network.fingerprint, target="onnxruntime", layers=(decision,))
    solved = tt.repair(rounded(network, plan), network, plan, images(100))
    for name, parameter in network.named_parameters():
        if name in {"stem.weight", "conv1.weight", "head.weight"}:
            assert torch.equal(solved.state_dict()[name], parameter), name


def test_ranges_are_calibrated_on_what_rounded_layers_write(network):
    plan = plan_for(network, Scheme(grid="symmetric", bits=8, granularity=PER_CHANNEL), Scheme(grid="affine", bits=8))
    solved = tt.repair(rounded(network, plan), network, plan, images(100))
    sites = [site for site in solved.module.modules() if isinstance(site, ActivationFakeQuantize)]
    assert len(sites) >= 4
    assert all(not site.observing and bool(site.step().isfinite()) for site in sites)
    assert distance(solved, network) < 0.01


def test_blocks_are_what_lies_between_narrow_places(network):
    nodes = {node.name: node for node in network.module.graph.nodes}
    calls = {layer.name: nodes[layer.node] for layer in network.layers}
    found = segments(network, tuple(calls.values()))
    assert [block.layers for block in found] == [
        (calls["stem"],),
        (calls["conv1"], calls["conv2"]),
        (calls["head"],),
    ]
    for block, after in pairwise(found):
        assert block.end is after.start
        outside = {n for n in network.module.graph.nodes if n.op != "get_attr"} - {*block.nodes, block.start}
        assert not any(read in outside for node in block.nodes for read in node.all_input_nodes)
        assert not any(user in outside for node in block.nodes[:-1] for user in node.users)


def test_a_block_that_changes_its_rows_is_refused():
    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(F.relu(self.a(x.view(-1, 4))).view(-1, 8))

    torch.manual_seed(0)
    net = tt.capture(Windows().eval(), torch.randn(4, 8))
    plan = plan_for(net, Scheme(grid="symmetric", bits=4, granularity=PER_CHANNEL), solver="block")
    with pytest.raises(PlanError, match="coordinate_descent"):
        tt.repair(rounded(net, plan), net, plan, [torch.randn(16, 8)])


def test_blocks_learn_what_low_activations_need(network):
    """Nearer to the original than layer by layer, on rows that were not learned from."""
    batches, found = images(250, 2), {}
    for solver in ("coordinate_descent", "block"):
        plan = plan_for(
            network,
            Scheme(grid="symmetric", bits=8, granularity=PER_CHANNEL),
            Scheme(grid="affine", bits=3),
            solver=solver,
        )
        found[solver] = distance(tt.repair(rounded(network, plan), network, plan, batches), network)
    assert found["block"] < 0.95 * found["coordinate_descent"]


@pytest.mark.parametrize("thinned", [False, True])
def test_blocks_learn_what_is_left_of_a_network_in_float(network, thinned):
    """Nearer than layer by layer, on rows that were not learned from; what is removed stays removed."""
    group = network.group("conv1/1")  # what conv1 writes and conv2 alone reads
    sparsity = Weights(fraction=0.5) if thinned else None
    batches, found = images(250, 2), {}
    for solver in ("joint", "block"):
        layers = tuple(LayerDecision(layer=name, sparsity=sparsity, solver=solver) for name in ("conv1", "conv2"))
        cut = () if thinned else (GroupDecision(group=group.name, kept=tuple(range(0, group.width, 2))),)
        plan = Plan(fingerprint=network.fingerprint, target="onnxruntime", layers=layers, groups=cut)
        solved = tt.repair(tt.apply(network, plan), network, plan, batches)
        found[solver] = distance(solved, network)
        if thinned:
            assert float((solved.module.get_parameter("conv2.weight") == 0).double().mean()) == 0.5
    assert found["block"] < 0.95 * found["joint"]


def test_other_layers_may_follow_those_of_a_block(network):
    scheme = Scheme(grid="symmetric", bits=4, granularity=PER_CHANNEL)
    solvers = {"stem": "gptq", "conv1": "block", "conv2": "block", "head": "gptq"}
    decisions = tuple(LayerDecision(layer=name, weight=scheme, solver=solver) for name, solver in solvers.items())
    plan = Plan(fingerprint=network.fingerprint, target="onnxruntime", layers=decisions)
    solved = tt.repair(rounded(network, plan), network, plan, images(100))
    for name, (weight, rounding) in weights(solved).items():
        torch.testing.assert_close(rounding(weight), weight, rtol=1e-5, atol=1e-7, msg=name)


def test_what_was_learned_requires_gradients_as_before(network):
    scheme = Scheme(grid="symmetric", bits=4, granularity=PER_CHANNEL)
    plan = plan_for(network, scheme, Scheme(grid="affine", bits=4), solver="block")
    fake = rounded(network, plan)
    fake.module.get_parameter("conv1.weight").requires_grad_(False)
    solved = tt.repair(fake, network, plan, images(40))
    for name, parameter in solved.named_parameters():
        assert parameter.requires_grad == (name != "conv1.weight"), name
        assert parameter.grad is None, name


def bits_of(network: Network) -> float:
    """What an ideal coder needs for all codes, each tensor at its own frequencies."""
    total = 0.0
    for weight, rounding in weights(network).values():
        share = torch.unique(rounding.codes(weight), return_counts=True)[1] / weight.numel()
        total -= float((share * share.log2()).sum()) * weight.numel()
    return total


@pytest.mark.parametrize("granularity", [PER_TENSOR, PER_CHANNEL])
def test_a_higher_price_buys_fewer_bits_and_more_error(network, granularity):
    bits, errors = [], []
    for price in (1e-6, 1e-5, 1e-4):
        scheme = Scheme(grid="symmetric", bits=8, granularity=granularity)
        plan = plan_for(network, scheme, solver="rate_distortion", price=price)
        solved = tt.repair(rounded(network, plan), network, plan, images(256, 4))
        bits.append(bits_of(solved))
        errors.append(distance(solved, network))
    assert bits[0] > 1.2 * bits[1] > 1.44 * bits[2]
    assert errors[0] < errors[1] < errors[2] < 0.2


def test_rate_and_distortion_beat_gptq_at_as_many_bits(network):
    """At the price where the bits are no more than those of the codes that GPTQ finds on 3 bits."""
    coarse = plan_for(network, Scheme(grid="symmetric", bits=3, granularity=PER_CHANNEL), solver="gptq")
    other = tt.repair(rounded(network, coarse), network, coarse, images(256, 4))
    price = 1e-6
    while True:
        scheme = Scheme(grid="symmetric", bits=8, granularity=PER_CHANNEL)
        plan = plan_for(network, scheme, solver="rate_distortion", price=price)
        own = tt.repair(rounded(network, plan), network, plan, images(256, 4))
        if bits_of(own) <= bits_of(other):
            break
        price *= 1.2
    assert distance(own, network) < 0.8 * distance(other, network)


def test_a_price_and_the_solver_that_takes_it_belong_together():
    with pytest.raises(ConfigError, match="needs a price above 0"):
        LayerDecision(layer="a", solver="rate_distortion")
    with pytest.raises(ConfigError, match="no other takes one"):
        LayerDecision(layer="a", price=1e-6)
    with pytest.raises(ConfigError, match="finds zeros itself"):
        LayerDecision(layer="a", solver="rate_distortion", price=1e-6, sparsity=Weights(fraction=0.5))
    with pytest.raises(ConfigError, match="got None; give such a scheme for the weight"):
        LayerDecision(layer="a", solver="rate_distortion", price=1e-6)


@pytest.mark.parametrize(
    "scheme",
    [
        Scheme(grid="affine", bits=4),
        Scheme(grid="symmetric", bits=4, granularity=(1, 4)),
        Scheme(grid="symmetric", bits=4, granularity=PER_NETWORK),
    ],
)
def test_a_price_needs_a_grid_whose_steps_the_solver_may_choose(scheme):
    with pytest.raises(ConfigError, match="one a channel or one a tensor; got grid="):
        LayerDecision(layer="a", solver="rate_distortion", price=1e-6, weight=scheme)
