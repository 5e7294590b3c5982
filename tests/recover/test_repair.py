"""Networks that lost channels are repaired without training: toward the original, layer after layer."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import trimtab as tt
from trimtab.errors import NumericsError, PlanError, TaskError
from trimtab.graph import Network
from trimtab.plan import BranchDecision, GroupDecision, LayerDecision, Plan, Weights
from trimtab.recover import reestimate_batchnorm
from trimtab.recover.stepwise import bytes_a_row


class Residual(nn.Module):
    def __init__(self, depthwise: bool = False, affine: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1)
        self.conv1 = nn.Conv2d(8, 12, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(12, affine=affine)
        self.spread = nn.Conv2d(12, 12, 3, padding=1, groups=12 if depthwise else 1, bias=False)
        self.conv2 = nn.Conv2d(12, 8, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(F.relu(self.spread(y)))) + x)
        return self.head(x.mean((2, 3)))


def captured(model: nn.Module, seed: int = 0) -> Network:
    """A network in eval mode whose batch norms have something to say."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.2, 1)
            if module.affine:
                nn.init.uniform_(module.weight, -1.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.2)
    return tt.capture(model.eval(), torch.randn(2, 2, 6, 6))


def images(rows: int, batches: int = 1) -> list[Tensor]:
    return [torch.randn(rows, 2, 6, 6) for _ in range(batches)]


def distance(a: Callable[[Tensor], Tensor], b: Callable[[Tensor], Tensor]) -> float:
    """Mean squared difference on fresh inputs, relative to how outputs differ."""
    with torch.no_grad():
        x = torch.randn(200, 2, 6, 6)
        return float((a(x) - b(x)).square().mean() / b(x).var(0).mean())


def plan_for(network: Network, **parts: object) -> Plan:
    return Plan(fingerprint=network.fingerprint, target="onnxruntime", **parts)


def cut_plan(network: Network, **kept: int) -> Plan:
    groups = tuple(GroupDecision(group=name, kept=tuple(range(count))) for name, count in kept.items())
    return plan_for(network, groups=groups)


def test_what_is_not_cut_stays_what_it_is():
    torch.manual_seed(0)
    network = captured(Residual())
    repaired = tt.repair(network, network, plan_for(network), images(40, 2))
    assert distance(repaired, network) < 1e-9


@pytest.mark.parametrize("depthwise", [False, True])
def test_a_channel_that_another_repeats_can_go_without_a_loss(depthwise):
    torch.manual_seed(0)
    model = Residual(depthwise=depthwise)
    with torch.no_grad():
        for tensor in (model.conv1.weight, model.bn1.weight, model.bn1.bias, *([model.spread.weight] * depthwise)):
            tensor[8:] = tensor[:4]
    network = captured(model)
    with torch.no_grad():
        for tensor in (
            *(network.module.get_parameter(f"bn1.{n}") for n in ("weight", "bias")),
            *network.module.get_submodule("bn1").buffers(),
        ):
            if tensor.dim():
                tensor[8:] = tensor[:4]
    plan = cut_plan(network, conv1=8)
    cut = tt.apply(network, plan)
    repaired = tt.repair(cut, network, plan, images(100, 3))
    assert distance(cut, network) > 0.01
    assert distance(repaired, network) < 1e-5


@pytest.mark.parametrize("model", [Residual(), Residual(depthwise=True), Residual(affine=False)])
def test_a_cut_network_comes_nearer_to_the_original_than_by_batch_norm_alone(model):
    network = captured(model)
    plan = cut_plan(network, conv1=9, stem=7)
    cut, batches = tt.apply(network, plan), images(100, 3)
    repaired = tt.repair(cut, network, plan, batches)
    settled = tt.settle(cut, batches, structure_changed=True)
    assert distance(repaired, network) < 0.5 * distance(settled, network)
    assert distance(repaired, network) < 0.5 * distance(cut, network)


def test_the_second_convolution_makes_up_for_the_shortcut_too():
    """Its weights are numpy-like least squares to the original's sum less the cut network's shortcut."""
    network = captured(Residual())
    plan = cut_plan(network, conv1=9, stem=7)
    cut, (x,) = tt.apply(network, plan), images(400)
    repaired = tt.repair(cut, network, plan, [x])
    seen: dict[str, Tensor] = {}

    def run(net: Network, key: str) -> None:
        values = torch.fx.Interpreter(net.module, garbage_collect_values=False)
        with torch.no_grad():
            values.run(x)
        for node, value in values.env.items():
            seen[f"{key}.{node.name}"] = value

    run(network, "there")
    run(repaired, "here")
    adds = [node for node in repaired.module.graph.nodes if node.target is torch.ops.aten.add.Tensor]
    conv = next(layer.node for layer in repaired.layers if layer.name == "conv2")
    reads = next(node for node in repaired.module.graph.nodes if node.name == conv).args[0].name
    wanted = seen[f"there.{adds[-1].name}"][:, :7] - seen[f"here.{adds[-1].args[1].name}"]
    got = seen[f"here.{adds[-1].args[0].name}"]
    rows = seen[f"here.{reads}"].movedim(1, -1).reshape(-1, 12).double()
    table = torch.cat([rows, torch.ones(len(rows), 1).double()], 1)
    target = wanted.movedim(1, -1).reshape(-1, 7).double()
    best = table @ torch.linalg.lstsq(table, target).solution
    found = got.movedim(1, -1).reshape(-1, 7).double()
    least = (best - target).square().mean()
    assert (found - target).square().mean() < 1.002 * least
    torch.testing.assert_close(found.mean(0), target.mean(0), atol=1e-4, rtol=0)


def test_batch_norm_has_the_statistics_of_what_it_reads():
    network = captured(Residual())
    plan = cut_plan(network, conv1=9)
    batches = images(300)
    repaired = tt.repair(tt.apply(network, plan), network, plan, batches)
    again = reestimate_batchnorm(repaired, batches)
    for name, buffer in repaired.named_buffers():
        if "running" in name:
            torch.testing.assert_close(again.state_dict()[name], buffer, atol=1e-3, rtol=1e-3)


def test_layers_that_can_add_no_constant_are_solved_without_one():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 12, 3, bias=False), nn.ReLU(), nn.Conv2d(12, 6, 1, bias=False), nn.Flatten(), nn.Linear(96, 3)
    )
    network = tt.capture(model.eval(), torch.randn(2, 2, 6, 6))
    plan = cut_plan(network, **{"0": 9})
    cut = tt.apply(network, plan)
    repaired = tt.repair(cut, network, plan, images(200, 2))
    assert distance(repaired, network) < 0.7 * distance(cut, network)


def test_a_removed_block_is_made_up_for_by_the_layers_that_are_left():
    network = captured(Residual())
    plan = plan_for(network, branches=(BranchDecision(branch=network.branches[0].name, removed=True),))
    cut = tt.apply(network, plan)
    repaired = tt.repair(cut, network, plan, images(200, 2))
    assert distance(repaired, network) < 0.7 * distance(cut, network)


def test_zeros_stay_zeros_and_the_weights_that_are_left_make_up_for_them():
    network = captured(Residual())
    thin = tuple(
        LayerDecision(layer=layer.name, sparsity=Weights(fraction=0.4), solver="least_squares")
        for layer in network.layers
    )
    plan = plan_for(network, layers=thin)
    cut, batches = tt.apply(network, plan), images(200, 2)
    repaired = tt.repair(cut, network, plan, batches)
    for name, weight in cut.named_parameters():
        if any(name == layer.weight for layer in network.layers):
            assert torch.equal(repaired.state_dict()[name] == 0, weight == 0), name
    settled = tt.settle(cut, batches, structure_changed=True)
    assert distance(repaired, network) < 0.7 * distance(settled, network)


def test_a_weight_that_is_read_twice_stays():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
            self.again = nn.Conv2d(6, 6, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.again(F.relu(self.again(F.relu(self.second(F.relu(self.first(x)))))))

    torch.manual_seed(0)
    network = tt.capture(Twice().eval(), torch.randn(2, 2, 6, 6))
    plan = cut_plan(network, first=4)
    cut = tt.apply(network, plan)
    repaired = tt.repair(cut, network, plan, images(50))
    assert torch.equal(repaired.state_dict()["again.weight"], cut.state_dict()["again.weight"])
    assert not torch.equal(repaired.state_dict()["second.weight"], cut.state_dict()["second.weight"])


def test_neither_network_is_touched_and_the_mode_stays():
    network = captured(Residual())
    plan = cut_plan(network, conv1=9)
    cut = tt.apply(network, plan).train()
    before = [{k: v.clone() for k, v in net.state_dict().items()} for net in (cut, network)]
    assert tt.repair(cut, network, plan, images(20)).training
    assert not network.training
    assert cut.training
    for net, state in zip((cut, network), before, strict=True):
        assert all(torch.equal(net.state_dict()[name], value) for name, value in state.items())


def test_what_cannot_be_repaired_is_refused():
    network = captured(Residual())
    plan = cut_plan(network, conv1=9)
    cut = tt.apply(network, plan)
    with pytest.raises(TaskError, match="no batches"):
        tt.repair(cut, network, plan, [])
    bad = torch.randn(4, 2, 6, 6)
    bad[1] = torch.nan
    with pytest.raises(NumericsError, match="stem: NaN"):
        tt.repair(cut, network, plan, [bad])
    other = plan_for(network, groups=(GroupDecision(group="conv7", kept=(0,)),))
    with pytest.raises(PlanError, match="conv7"):
        tt.repair(cut, network, other, images(4))


def test_one_row_at_a_time_is_enough():
    network = captured(Residual())
    plan = cut_plan(network, conv1=9)
    repaired = tt.repair(tt.apply(network, plan), network, plan, list(torch.randn(8, 1, 2, 6, 6)))
    with torch.no_grad():
        assert bool(repaired(torch.randn(3, 2, 6, 6)).isfinite().all())


def test_the_memory_of_a_row_is_that_of_what_is_alive_together():
    model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5))
    assert bytes_a_row(tt.capture(model.eval(), torch.randn(4, 10))) == 4 * (20 + 20)  # the first dropped its input
