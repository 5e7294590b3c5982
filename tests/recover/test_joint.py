"""Masks found together with codes: as many weights leave as planned, and the network is nearer to the original."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import trimtab as tt
from trimtab.errors import ConfigError
from trimtab.graph import Network
from trimtab.plan import (
    PER_CHANNEL,
    GroupDecision,
    Kernels,
    LayerDecision,
    NofM,
    Plan,
    Scheme,
    Sparsity,
    Tiles,
    Weights,
)
from trimtab.prune.granularity import pieces
from trimtab.prune.masks import masks_of
from trimtab.recover.reconstruct import trials

FOUR_BITS = Scheme(grid="symmetric", bits=4, granularity=PER_CHANNEL)
THINNED = ("conv1", "conv2")
SPARSITIES = {
    "weights": Weights(fraction=0.5),
    "2:4": NofM(kept=2, of=4),
    "tiles": Tiles(shape=(4, 2), fraction=0.5),
    "kernels": Kernels(fraction=0.5),
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv1 = nn.Conv2d(8, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + x)
        return self.head(x)


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    model = Net()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.2, 1)
            nn.init.uniform_(module.weight, -1.5, 1.5)
    return tt.capture(model.eval(), torch.randn(3, 3, 6, 6))


def images(rows: int, seed: int = 1) -> list[Tensor]:
    """Smooth ones: where inputs tell nothing of each other, there is little to make up for."""
    noise = torch.randn(rows, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return list(F.interpolate(noise, size=6, mode="bicubic").split(64))


def plan_for(network: Network, sparsity: Sparsity, solver: str, weight: Scheme | None = FOUR_BITS, groups=()) -> Plan:
    decisions = tuple(
        LayerDecision(layer=name, sparsity=sparsity, weight=weight, solver=solver)  # type: ignore[arg-type]
        for name in THINNED
    )
    return Plan(fingerprint=network.fingerprint, target="onnxruntime", layers=decisions, groups=groups)


def solved(network: Network, plan: Plan) -> Network:
    return tt.repair(tt.apply(network, plan), network, plan, images(256))


def distance(one: Network, other: Network) -> float:
    fresh = torch.cat(images(256, seed=2))
    with torch.no_grad():
        return float((one(fresh) - other(fresh)).square().mean())


@pytest.mark.parametrize("weight", [None, FOUR_BITS], ids=["float", "4 bits"])
@pytest.mark.parametrize("kind", SPARSITIES)
def test_joint_beats_a_mask_that_knows_nothing_of_the_inputs(network, kind, weight):
    sparsity = SPARSITIES[kind]
    plan = plan_for(network, sparsity, "joint", weight)
    found = solved(network, plan)
    for mask in masks_of(found, plan).values():
        counts = pieces(mask.double(), sparsity)
        if isinstance(sparsity, NofM):
            assert (counts <= sparsity.kept).all()
        else:
            assert (counts > 0).double().mean() <= 0.5
            assert (counts > 0).double().mean() >= 0.4  # a code may be zero too
    by_magnitude = solved(network, plan_for(network, sparsity, "coordinate_descent", weight))
    assert distance(found, network) < distance(by_magnitude, network)


@pytest.mark.parametrize("kind", ["weights", "2:4"])
def test_joint_beats_sequences_and_single_sweeps(network, kind):
    distances = {
        solver: distance(solved(network, plan_for(network, SPARSITIES[kind], solver)), network)
        for solver in ("joint", "block", "sparsegpt", "sweep")
    }
    assert max(distances["joint"], distances["block"]) < min(distances["sparsegpt"], distances["sweep"])


@pytest.mark.parametrize("solver", ["sparsegpt", "sweep"])
def test_sweeps_remove_single_weights_only(network, solver):
    plan = plan_for(network, NofM(kept=1, of=4), solver, None)
    for mask in masks_of(solved(network, plan), plan).values():
        assert (pieces(mask.double(), NofM(kept=1, of=4)) == 1).all()
    with pytest.raises(ConfigError, match=f"conv1: solver '{solver}' removes single weights or N of M; choose 'joint'"):
        solved(network, plan_for(network, SPARSITIES["tiles"], solver))


def test_problems_of_an_untouched_network_are_solved_by_its_own_weights(network):
    problems = [trial.problem for trial in trials(network, images(128))]
    assert [problem.name for problem in problems] == ["stem", "conv1", "conv2", "head"]
    for problem in problems:
        weight = network.module.get_parameter(f"{problem.name}.weight")
        torch.testing.assert_close(problem.weight.reshape(problem.shape), weight.double())
        torch.testing.assert_close(problem.moments.cross, problem.weight @ problem.moments.gram, atol=1e-4, rtol=1e-4)


def test_what_a_cut_leaves_is_thinned(network):
    group = next(group for group in network.groups if group.width == 16)
    plan = plan_for(
        network, NofM(kept=2, of=4), "joint", groups=(GroupDecision(group=group.name, kept=(0, 1, 2, 5, 8, 9, 12, 15)),)
    )
    found = solved(network, plan)
    assert found.module.get_parameter("conv2.weight").shape == (8, 8, 3, 3)
    by_magnitude = solved(
        network,
        plan.model_copy(
            update={
                "layers": tuple(
                    decision.model_copy(update={"solver": "coordinate_descent"}) for decision in plan.layers
                )
            }
        ),
    )
    assert distance(found, network) < distance(by_magnitude, network)
