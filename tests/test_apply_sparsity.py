"""The sparsities of a plan, in force beside its cuts and its storage."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from int8_nets import ACTIVATION, WEIGHT, conv, head
from recurrent_net import Last
from trimtab.apply import apply
from trimtab.errors import ConfigError, PlanError
from trimtab.graph import Network, capture
from trimtab.plan import BranchDecision, GroupDecision, Kernels, LayerDecision, NofM, Plan, Sparsity, Tiles, Weights
from trimtab.prune import CRITERIA, EntryCriterion
from trimtab.quant import WeightFakeQuantize, calibrate
from trimtab.search import stats_for
from trimtab.stats import collect
from trimtab.tasks import Task

IMAGES = torch.randn(6, 3, 8, 8)
KINDS: tuple[Sparsity, ...] = (
    Weights(fraction=0.7),
    Kernels(fraction=0.25),
    Tiles(shape=(4, 2), fraction=0.5),
    NofM(kept=1, of=4),
)
SHARES = (0.7, 0.25, 0.5, 0.75)


class Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + super().forward(x))


@pytest.fixture
def network() -> Network:
    return capture(nn.Sequential(conv(3, 8), Residual(conv(8, 12), conv(12, 8)), head(8)).eval(), IMAGES)


def plan(network: Network, *layers: LayerDecision, **changes: object) -> Plan:
    return Plan(fingerprint=network.fingerprint, target="onnxruntime", layers=layers, **changes)  # type: ignore[arg-type]


def weight(network: Network, name: str) -> Tensor:
    return network.module.get_parameter(name).detach()


def loss(outputs: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, labels)


@pytest.mark.parametrize(("sparsity", "share"), list(zip(KINDS, SHARES, strict=True)))
def test_the_asked_share_is_zero_and_the_rest_is_as_it_was(network: Network, sparsity: Sparsity, share: float) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    sparse = apply(network, plan(network, LayerDecision(layer="1.0.0", sparsity=sparsity)))
    after, whole = weight(sparse, "1.0.0.weight"), weight(network, "1.0.0.weight")
    assert (after == 0).double().mean().item() == pytest.approx(share, abs=0.01)
    assert torch.equal(after[after != 0], whole[after != 0])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    others = [name for name, _ in network.named_parameters() if name != "1.0.0.weight"]
    assert all(torch.equal(weight(sparse, name), before[name]) for name in others)


def test_the_smallest_weights_leave(network: Network) -> None:
    sparse = apply(network, plan(network, LayerDecision(layer="2.2", sparsity=Weights(fraction=0.4))))
    whole = weight(network, "2.2.weight")
    border = whole.abs().flatten().sort().values[16]
    assert torch.equal(weight(sparse, "2.2.weight") == 0, whole.abs() < border)


def test_what_a_cut_left_competes_by_its_scores_in_the_whole_network(network: Network) -> None:
    kept = {"1.0.0": (0, 2, 3, 5, 7, 8, 10, 11), "0.0": (1, 2, 6, 7)}
    groups = tuple(GroupDecision(group=group, kept=units) for group, units in kept.items())
    decision = LayerDecision(layer="1.0.0", sparsity=Weights(fraction=0.5), criterion="fisher")
    batches = [(torch.randn(5, 3, 8, 8), torch.randint(5, (5,))) for _ in range(3)]
    stats = collect(network, batches, loss, {"fisher"})
    sparse = apply(network, plan(network, decision, groups=groups), stats)
    scores = CRITERIA.load("fisher")().entries(network, "1.0.0.weight", stats)
    left = scores[list(kept["1.0.0"])][:, list(kept["0.0"])]
    border = left.flatten().sort().values[left.numel() // 2]
    assert torch.equal(weight(sparse, "1.0.0.weight") != 0, left >= border)
    assert float((left >= border).double().mean()) == 0.5


@pytest.mark.parametrize("name", [name for name in CRITERIA if isinstance(CRITERIA.load(name)(), EntryCriterion)])
def test_every_criterion_of_single_weights_carries_a_plan_out(network: Network, name: str) -> None:
    batches = [(torch.randn(5, 3, 8, 8), torch.randint(5, (5,))) for _ in range(2)]
    task = Task(
        model=nn.Identity(), train=batches, val=batches, test=None, loss=loss, metric=lambda a, b: 0.0, name="small"
    )
    decisions = [
        LayerDecision(layer=layer, sparsity=sparsity, criterion=name)
        for layer, sparsity in zip(("1.0.0", "1.1.0", "2.2", "0.0"), itertools.chain(KINDS[1:], KINDS[:1]), strict=True)
        if layer != "2.2"
    ]
    decided = plan(network, *decisions)
    sparse = apply(network, decided, stats_for(decided, network, task))
    again = apply(network, decided, stats_for(decided, network, task))
    for decision, share in zip(decisions, (0.25, 0.5, 0.7), strict=True):
        zeros = weight(sparse, f"{decision.layer}.weight") == 0
        assert zeros.double().mean().item() == pytest.approx(share, abs=0.01)
        assert torch.equal(zeros, weight(again, f"{decision.layer}.weight") == 0)


def test_recurrent_matrices_are_sparse_and_stay_in_float() -> None:
    network = capture(Last().eval(), torch.randn(3, 5, 4))
    halves = [
        LayerDecision(layer=f"lstm.weight_{kind}_l0", sparsity=sparsity)
        for kind, sparsity in (("ih", NofM(kept=2, of=4)), ("hh", Tiles(shape=(4, 4), fraction=0.5)))
    ]
    sparse = apply(network, plan(network, *halves))
    for decision in halves:
        assert (weight(sparse, decision.layer) == 0).double().mean().item() == 0.5
    with pytest.raises(PlanError, match=r"lstm\.weight_ih_l0: weight .* for the weight of a recurrent it has: none"):
        apply(network, plan(network, halves[0].model_copy(update={"weight": WEIGHT})))
    with pytest.raises(PlanError, match=r"no layer 'lstm\.weight_l0' in this network; did you mean lstm\.weight_"):
        apply(network, plan(network, LayerDecision(layer="lstm.weight_l0", sparsity=Weights(fraction=0.5))))


@pytest.mark.parametrize("sparsity", KINDS, ids=lambda sparsity: sparsity.kind)
def test_zeros_are_zeros_under_fake_quantization(network: Network, sparsity: Sparsity) -> None:
    decision = LayerDecision(layer="1.0.0", sparsity=sparsity, weight=WEIGHT, activation=ACTIVATION)
    sparse = apply(network, plan(network, decision))
    calibrate(sparse.module, [IMAGES])
    (rounding,) = [m for m in sparse.module.modules() if isinstance(m, WeightFakeQuantize)]
    value = weight(sparse, "1.0.0.weight")
    assert not rounding(value)[value == 0].any()
    plain = apply(network, plan(network, decision.model_copy(update={"weight": None, "activation": None})))
    assert torch.equal(value, weight(plain, "1.0.0.weight"))
    # The grid is that of the weights that stayed.
    largest = value.flatten(1).abs().amax(1)
    assert torch.allclose(rounding.step().detach() * 127, torch.where(largest > 0, largest, rounding.step() * 127))


@pytest.mark.parametrize(
    ("decision", "kind", "message"),
    [
        (
            LayerDecision(layer="0.0", sparsity=NofM(kept=2, of=4)),
            PlanError,
            r"plan: 0\.0: 2 of 4 needs inputs in multiples of 4, the weight is 8×3×3×3 .*; choose an `of`",
        ),
        (
            LayerDecision(layer="2.2", sparsity=Tiles(shape=(2, 2), fraction=0.5)),
            PlanError,
            r"plan: 2\.2: tiles of 2×2 do not divide the weight, which is 5×8 .*; choose a tile",
        ),
        (
            LayerDecision(layer="2.2", sparsity=Weights(fraction=0.999)),
            PlanError,
            r"plan: 2\.2: 0\.999 of 40 weights leaves nothing; remove at most 39 of them, or cut",
        ),
        (
            LayerDecision(layer="2.2", sparsity=Weights(fraction=0.5), criterion="fisher"),
            ConfigError,
            r"plan: 2\.2: criterion 'fisher' needs statistics \(fisher\); give apply\(…, stats=collect",
        ),
        (
            LayerDecision(layer="2.2", sparsity=Weights(fraction=0.5), criterion="apoz"),
            ConfigError,
            r"plan: 2\.2: criterion 'apoz' does not score single weights; known that do: .*magnitude.*taylor",
        ),
        (
            LayerDecision(layer="2.2", sparsity=Weights(fraction=0.5), criterion="luck"),
            ConfigError,
            r"unknown criterion 'luck'; known: ablation",
        ),
        (
            LayerDecision(layer="2.3", sparsity=Weights(fraction=0.5)),
            PlanError,
            r"plan: no layer '2\.3' in this network; did you mean 2\.2",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    network: Network, decision: LayerDecision, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        apply(network, plan(network, decision))
    assert "\n" not in str(caught.value)


def test_statistics_of_something_else_are_refused(network: Network) -> None:
    batches = [(torch.randn(5, 3, 8, 8), torch.randint(5, (5,)))]
    stats = collect(network, batches, loss, {"gradient"})
    decision = LayerDecision(layer="2.2", sparsity=Weights(fraction=0.5), criterion="fisher")
    with pytest.raises(ConfigError, match="'fisher'"):
        apply(network, plan(network, decision), stats)


def test_a_width_that_the_cut_leaves_decides_what_is_reached(network: Network) -> None:
    decision = LayerDecision(layer="1.0.0", sparsity=NofM(kept=2, of=4))
    apply(network, plan(network, decision))
    cut = (GroupDecision(group="0.0", kept=(0, 1, 2, 3, 4, 5)),)
    with pytest.raises(PlanError, match=r"plan: 1\.0\.0: 2 of 4 needs .* the weight is 12×6×3×3"):
        apply(network, plan(network, decision, groups=cut))


def test_a_layer_of_a_removed_branch_cannot_be_sparse(network: Network) -> None:
    decision = LayerDecision(layer="1.0.0", sparsity=Weights(fraction=0.5))
    removed = (BranchDecision(branch=network.branches[0].name, removed=True),)
    with pytest.raises(PlanError, match=r"plan: 1\.0\.0: it is in the removed branch '1'; leave the layer out"):
        apply(network, plan(network, decision, branches=removed))


def test_a_plan_with_sparsity_survives_json(network: Network) -> None:
    decisions = [
        LayerDecision(layer=name, sparsity=s) for name, s in zip(("1.0.0", "1.1.0", "2.2"), KINDS, strict=False)
    ]
    original = plan(network, *decisions[:2], LayerDecision(layer="2.2", sparsity=KINDS[3]))
    again = Plan.from_json(original.to_json(), where="plan.json")
    assert again == original
    first, second = apply(network, original), apply(network, again)
    assert all(torch.equal(a, second.state_dict()[name]) for name, a in first.state_dict().items())
