"""A plan in a loop by hand: zeros stay, the finalized network is the one that was trained, a resume is exact."""

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from int8_nets import ACTIVATION, WEIGHT, bare, conv, head, random_inputs, randomize, residual
from recurrent_net import Last
from trimtab.apply import apply
from trimtab.errors import ConfigError, PlanError, TaskError
from trimtab.graph import Network, capture
from trimtab.graph.verify import TOLERANCE, compare
from trimtab.plan import (
    BranchDecision,
    Dynamic,
    Gradual,
    GroupDecision,
    Iterative,
    Kernels,
    LayerDecision,
    NofM,
    Plan,
    Rewind,
    RigL,
    Schedule,
    Static,
    Weights,
)
from trimtab.prepare import Prepared, finalize, hold_plan, prepare
from trimtab.quant import WeightFakeQuantize, calibrate

SHAPE = (3, 8, 8)
GRADUAL = Gradual(every=1)
SCHEDULES: tuple[Schedule, ...] = (
    Static(),
    Iterative(rounds=2),
    GRADUAL,
    Dynamic(every=1),
    RigL(every=2),
    Rewind(rounds=2),
)
STEPS = 10


def network(model: nn.Module | None = None) -> Network:
    model = model or residual()
    (images,) = random_inputs([SHAPE], 7)
    randomize(model, images)
    return capture(model, images)


def planned(it: Network, *, groups: bool = True, sparse: bool = True, int8: bool = False, keep: float = 0.5) -> Plan:
    """Some units of every group, three quarters of the weights of every layer but the last."""
    storage: dict[str, Any] = {"weight": WEIGHT, "activation": ACTIVATION} if int8 else {}
    names = list(dict.fromkeys(layer.name.partition("#")[0] for layer in it.layers))
    layers = [
        LayerDecision(layer=name, sparsity=Weights(fraction=0.75) if sparse and name != names[-1] else None, **storage)
        for name in names
    ]
    cuts = [
        GroupDecision(group=g.name, kept=tuple(sorted(torch.randperm(g.width)[: math.ceil(keep * g.width)].tolist())))
        for g in it.groups
    ]
    return Plan(
        fingerprint=it.fingerprint,
        target="onnxruntime",
        groups=tuple(cuts) if groups else (),
        layers=tuple(layers) if sparse or int8 else (),
    )


def optimizer_of(prepared: Prepared) -> torch.optim.Optimizer:
    return torch.optim.SGD(prepared.parameters(), lr=0.01, momentum=0.9, weight_decay=0.01)


def train(prepared: Prepared, steps: int, optimizer: torch.optim.Optimizer | None = None, seed: int = 0) -> None:
    """A loop as a user writes it; what step i sees follows from the seed."""
    optimizer = optimizer or optimizer_of(prepared)
    dtype = next(prepared.parameters()).dtype
    for step in range(steps):
        generator = torch.Generator().manual_seed(1000 * seed + step)
        images = torch.randn(6, *SHAPE, generator=generator, dtype=dtype)
        labels = torch.randint(5, (6,), generator=generator)
        F.cross_entropy(prepared(images), labels).backward()
        optimizer.step()
        prepared.step()
        optimizer.zero_grad()


def difference(prepared: Prepared, final: Network) -> float:
    """Of the outputs in eval mode on fresh images, relative to the largest."""
    prepared.eval()
    dtype = next(prepared.parameters()).dtype
    images = torch.randn(9, *SHAPE, dtype=dtype)
    with torch.no_grad():
        return compare(final(images), prepared(images))[0]


def zeros(it: Network, layer: str) -> float:
    weight = it.module.get_parameter(f"{layer}.weight")
    return float((weight == 0).double().mean())


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.kind)
def test_every_schedule_ends_with_the_plan_carried_out(schedule: Schedule) -> None:
    it = network()
    plan = planned(it)
    prepared = prepare(it, None, plan, schedule=schedule, steps=STEPS)
    train(prepared, STEPS)
    final = finalize(prepared)
    for decision in plan.groups:
        assert final.group(decision.group).width == len(decision.kept)
    for decision in plan.layers:
        if decision.sparsity is not None:
            assert zeros(final, decision.layer) == pytest.approx(0.75, abs=0.01)
    assert difference(prepared, final) < 1e-5
    assert not final.training


@settings(max_examples=5, deadline=None)
@given(keep=st.floats(0.1, 0.9), seed=st.integers(0, 1000), sparse=st.booleans())
def test_the_finalized_network_is_the_prepared_one_in_float64(keep: float, seed: int, sparse: bool) -> None:
    torch.manual_seed(seed)
    it = network()
    prepared = prepare(it, None, planned(it, sparse=sparse, keep=keep), schedule=GRADUAL, steps=4).double()
    train(prepared, 4, seed=seed)
    assert difference(prepared, finalize(prepared)) < TOLERANCE


@settings(max_examples=5, deadline=None)
@given(keep=st.floats(0.1, 0.9), seed=st.integers(0, 1000))
def test_so_it_is_with_fake_quantization(keep: float, seed: int) -> None:
    torch.manual_seed(seed)
    it = network()
    plan = planned(it, int8=True, keep=keep)
    prepared = prepare(it, None, plan, schedule=GRADUAL, steps=4, calibration=[torch.randn(20, *SHAPE)])
    train(prepared, 4, seed=seed)
    final = finalize(prepared)
    assert difference(prepared, final) < 1e-5
    for decision in plan.groups:
        if decision.group not in {layer.layer for layer in plan.layers}:
            continue
        ours, theirs = (_scales(n, decision.group) for n in (final, prepared.network))
        assert torch.equal(ours, theirs[list(decision.kept)])
    applied = apply(it, plan)
    applied.eval()
    calibrate(applied.module, [torch.randn(20, *SHAPE)])
    assert applied.fingerprint == final.fingerprint


def _scales(it: Network, layer: str) -> Tensor:
    """Found by what reads it, not by name."""
    weight = next(node for node in it.module.graph.find_nodes(op="get_attr") if node.target == f"{layer}.weight")
    fake = it.module.get_submodule(str(next(iter(weight.users)).target))
    assert isinstance(fake, WeightFakeQuantize)
    return fake.scale.detach()


def test_static_is_the_plan_applied() -> None:
    it = network()
    plan = planned(it)
    prepared = prepare(it, None, plan)
    assert prepared.finished
    assert prepared.level == 1
    assert difference(prepared, apply(it, plan)) == 0
    assert {n.removeprefix("module."): p.shape for n, p in prepared.named_parameters()} == {
        n: p.shape for n, p in apply(it, plan).named_parameters()
    }


def test_the_callers_model_stays_as_it_is() -> None:
    model = residual().train()
    before = copy.deepcopy(model.state_dict())
    images = torch.randn(5, *SHAPE)
    plan = planned(capture(model, images))
    prepared = prepare(model, images, plan, schedule=GRADUAL, steps=3)
    train(prepared, 3)
    finalize(prepared)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_finalize_leaves_the_prepared_one_to_train_on() -> None:
    it = network()
    prepared = prepare(it, None, planned(it), schedule=RigL(every=2), steps=8)
    optimizer = optimizer_of(prepared)
    train(prepared, 4, optimizer)
    first = finalize(prepared).state_dict()
    kept = {name: value.clone() for name, value in first.items()}
    train(prepared, 4, optimizer)
    assert all(torch.equal(value, kept[name]) for name, value in first.items())
    assert prepared.training


def test_branches_go_at_once_and_groups_inside_them_are_void() -> None:
    class Residual(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x + super().forward(x))

    it = network(nn.Sequential(conv(3, 8), Residual(conv(8, 6), bare(6, 8)), head(8)))
    (branch,) = it.branches
    cut = planned(it, sparse=False)
    plan = cut.model_copy(update={"branches": (BranchDecision(branch=branch.name, removed=True),)})
    prepared = prepare(it, None, plan, schedule=GRADUAL, steps=3)
    assert not prepared.network.branches
    assert "1.0.0" not in prepared.kept
    train(prepared, 3)
    final = finalize(prepared)
    assert final.fingerprint == apply(it, plan).fingerprint
    assert difference(prepared, final) < 1e-5


@pytest.mark.parametrize("sparsity", [NofM(kept=2, of=4), Kernels(fraction=0.5)], ids=lambda s: s.kind)
def test_blocks_are_those_of_the_cut_network(sparsity: Any) -> None:
    """Inputs of the second layer leave too; in what is left every four have two."""
    model = nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 6, 3), head(6))
    it = network(model)
    plan = Plan(
        fingerprint=it.fingerprint,
        target="onnxruntime",
        groups=(GroupDecision(group="0", kept=(0, 2, 3, 5, 6, 7, 10, 11)),),
        layers=(LayerDecision(layer="2", sparsity=sparsity),),
    )
    prepared = prepare(it, None, plan, schedule=GRADUAL, steps=3)
    train(prepared, 3)
    weight = finalize(prepared).module.get_parameter("2.weight")
    assert weight.shape[1] == 8
    kept = (weight != 0).unflatten(1, (2, 4)).sum(2) if isinstance(sparsity, NofM) else (weight != 0).sum((2, 3))
    assert set(kept.flatten().tolist()) == ({2} if isinstance(sparsity, NofM) else {0, 9})
    assert float((weight == 0).double().mean()) == 0.5


def test_recurrent_matrices_are_held_too() -> None:
    example = torch.randn(5, 6, 4)
    it = capture(Last(), example)
    layers = tuple(LayerDecision(layer=name, sparsity=Weights(fraction=0.5)) for name in ("lstm.weight_hh_l0", "head"))
    plan = Plan(fingerprint=it.fingerprint, target="onnxruntime", layers=layers)
    prepared = prepare(it, None, plan, schedule=GRADUAL, steps=3)
    optimizer = torch.optim.AdamW(prepared.parameters())
    for _ in range(3):
        prepared(torch.randn(5, 6, 4)).square().sum().backward()
        optimizer.step()
        prepared.step()
        optimizer.zero_grad()
    weight = finalize(prepared).module.get_parameter("lstm.weight_hh_l0")
    assert float((weight == 0).double().mean()) == 0.5


@pytest.mark.parametrize("begun", [False, True], ids=["loaded before begin", "loaded after begin"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.kind)
def test_a_resume_is_exact(schedule: Schedule, begun: bool) -> None:
    it = network()
    plan = planned(it, int8=True)

    def fresh(steps: int | None) -> Prepared:
        return prepare(it, None, plan, schedule=schedule, steps=steps)

    whole = fresh(STEPS)
    optimizer = optimizer_of(whole)
    train(whole, 5, optimizer)
    saved = copy.deepcopy((whole.state_dict(), optimizer.state_dict()))
    train(whole, 5, optimizer, seed=1)

    resumed = nn.Sequential(fresh(STEPS if begun else None))
    resumed.load_state_dict({f"0.{name}": tensor for name, tensor in saved[0].items()})
    prepared = resumed[0]
    assert isinstance(prepared, Prepared)
    prepared.begin(STEPS)
    optimizer = optimizer_of(prepared)
    optimizer.load_state_dict(saved[1])
    train(prepared, 5, optimizer, seed=1)
    expected = whole.state_dict()
    assert expected.keys() == prepared.state_dict().keys()
    assert all(torch.equal(value, expected[name]) for name, value in prepared.state_dict().items())


def test_a_clone_has_come_as_far_and_shares_nothing() -> None:
    it = network()
    original = prepare(it, None, planned(it), schedule=Dynamic(every=1), steps=STEPS)
    train(original, 5)
    clone, deep = original.clone(), copy.deepcopy(original)
    before = {name: value.clone() for name, value in original.state_dict().items()}
    train(clone, 5, seed=1)
    assert all(torch.equal(value, before[name]) for name, value in original.state_dict().items())
    train(original, 5, seed=1)
    train(deep, 5, seed=1)
    for other in (clone, deep):
        assert all(torch.equal(value, original.state_dict()[name]) for name, value in other.state_dict().items())


def test_train_and_eval_switch_the_graph_from_any_parent() -> None:
    class Wrapped(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

    it = capture(residual(), torch.randn(5, *SHAPE))
    prepared = prepare(it, None, planned(it))
    parent = Wrapped(prepared)
    images = torch.randn(8, *SHAPE)
    parent.eval()
    assert torch.equal(prepared(images), prepared(images))
    assert not prepared.network.training
    statistics = {name: value.clone() for name, value in prepared.named_buffers()}
    prepared(images)
    assert all(torch.equal(value, statistics[name]) for name, value in prepared.named_buffers())
    parent.train()
    prepared(images)
    assert not all(torch.equal(value, statistics[name]) for name, value in prepared.named_buffers())


def test_what_was_prepared_is_in_training_mode_and_its_ranges_are_known() -> None:
    it = network()
    for schedule in (Static(), GRADUAL):
        prepared = prepare(it, None, planned(it, int8=True), schedule=schedule, steps=3)
        assert prepared.training
        assert prepared.network.training
        assert prepared(torch.randn(4, *SHAPE)).isfinite().all()


def test_what_is_held_stays_zero_under_momentum_and_decay() -> None:
    it = network()
    plan = planned(it)
    applied = apply(it, plan)
    held = hold_plan(applied, plan)
    train(held, 6)
    for decision in plan.layers:
        if decision.sparsity is not None:
            now = held.network.module.get_parameter(f"{decision.layer}.weight")
            then = applied.module.get_parameter(f"{decision.layer}.weight")
            assert torch.equal(now == 0, then == 0)
            assert not torch.equal(now, then)
    assert finalize(held).fingerprint == applied.fingerprint


def test_holding_refuses_a_network_of_another_plan() -> None:
    it = network()
    plan = planned(it)
    with pytest.raises(PlanError, match=r"group '.*' has 8 units in this network, the plan keeps 4; give the network"):
        hold_plan(it, plan)
    with pytest.raises(PlanError, match=r"weight has fewer zeros than the plan removes; give the network that apply"):
        hold_plan(it, planned(it, groups=False))
    other = network(nn.Sequential(nn.Conv2d(3, 4, 3), head(4)))
    with pytest.raises(PlanError, match="no layer"):
        hold_plan(other, planned(it, groups=False))


def test_a_cast_in_the_middle_keeps_what_the_pruner_knows() -> None:
    it = network()
    plan = planned(it)
    prepared, other = (prepare(it, None, plan, schedule=Dynamic(every=1), steps=STEPS) for _ in range(2))
    for one in (prepared, other):
        train(one, 5)
    prepared.double()
    state = other.state_dict()
    assert prepared.level == other.level
    assert all(torch.equal(value.to(state[name].dtype), state[name]) for name, value in prepared.state_dict().items())
    train(prepared, 5, seed=1)
    assert difference(prepared, finalize(prepared)) < TOLERANCE


# ── bad input ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_finalize_before_the_end_says_how_far_it_is() -> None:
    it = network()
    prepared = prepare(it, None, planned(it), schedule=Iterative(rounds=4), steps=100)
    train(prepared, 1)
    with pytest.raises(ConfigError, match=r"finalize: 25% of the plan's sparsity is in force, of 100 steps; call step"):
        finalize(prepared)


@pytest.mark.parametrize("schedule", [Static(), GRADUAL], ids=lambda s: s.kind)
def test_a_forgotten_step_is_found(schedule: Schedule) -> None:
    it = network()
    prepared = prepare(it, None, planned(it), schedule=schedule, steps=2)
    train(prepared, 2)
    optimizer = optimizer_of(prepared)
    prepared(torch.randn(4, *SHAPE)).square().sum().backward()
    optimizer.step()
    with pytest.raises(ConfigError, match=r"removed weights of .* are not zero; call step\(\) after every optimizer"):
        finalize(prepared)


def test_steps_are_needed_and_are_a_number() -> None:
    it = network()
    prepared = prepare(it, None, planned(it), schedule=GRADUAL)
    for what in (prepared.step, lambda: finalize(prepared)):
        with pytest.raises(ConfigError, match=r"not begun: schedule 'gradual' needs the number of .*; give prepare"):
            what()
    for wrong in (0, 1.5, True):
        with pytest.raises(ConfigError, match=f"steps is the number of optimizer steps, at least 1, got {wrong}"):
            prepared.begin(wrong)  # type: ignore[arg-type]
    prepared.begin(5)
    assert prepared.begin(5) is prepared.pruner
    with pytest.raises(ConfigError, match="begun for 5 steps, now it is to take 6; "):
        prepared.begin(6)


def test_what_cannot_be_reached_is_refused_before_training() -> None:
    it = network()
    plan = planned(it, sparse=False)
    for steps in (None, 5):
        wrong = plan.model_copy(update={"groups": (GroupDecision(group=plan.groups[0].group, kept=(0, 99)),)})
        with pytest.raises(PlanError, match="units are 0 to 7, got 99"):
            prepare(it, None, wrong, schedule=GRADUAL, steps=steps)
        wrong = plan.model_copy(update={"groups": (GroupDecision(group="nothing", kept=(0,)),)})
        with pytest.raises(PlanError, match="unknown group 'nothing'"):
            prepare(it, None, wrong, schedule=GRADUAL, steps=steps)
        layer = LayerDecision(layer=it.layers[0].name, sparsity=NofM(kept=2, of=4))
        with pytest.raises(PlanError, match="2 of 4 needs inputs in multiples of 4"):
            prepare(it, None, plan.model_copy(update={"layers": (layer,)}), schedule=GRADUAL, steps=steps)


def test_a_plan_for_another_network_is_refused() -> None:
    it, other = network(), network(nn.Sequential(conv(3, 6), head(6)))
    for schedule in (Static(), GRADUAL):
        with pytest.raises(PlanError, match=r"plan: it is for the network .*…, this one is .*…; "):
            prepare(it, None, planned(other), schedule=schedule, steps=5)


def test_arguments_of_the_wrong_kind() -> None:
    it = network()
    plan = planned(it)
    with pytest.raises(ConfigError, match=r"schedule is one of Static\(\), .*, got 'gradual'"):
        prepare(it, None, plan, schedule="gradual")  # type: ignore[arg-type]
    with pytest.raises(TaskError, match="calibration: the data has no batches; give at least one"):
        prepare(it, None, planned(it, int8=True), calibration=[])
    with pytest.raises(ConfigError, match="captured with an example of its inputs; give example"):
        prepare(residual(), None, plan)
    with pytest.raises(ConfigError, match=r"model is a torch\.nn\.Module or a Network, got dict"):
        prepare({}, None, plan)  # type: ignore[arg-type]
    wrapper = nn.DataParallel(prepare(it, None, plan))
    with pytest.raises(ConfigError, match="takes what prepare made, got DataParallel; of a wrapper"):
        finalize(wrapper)  # type: ignore[arg-type]


def test_one_criterion_for_all_layers_of_a_schedule() -> None:
    it = network()
    names = [layer.name for layer in it.layers[:2]]
    layers = tuple(
        LayerDecision(layer=name, sparsity=Weights(fraction=0.5), criterion=criterion)
        for name, criterion in zip(names, ("magnitude", "taylor"), strict=True)
    )
    plan = Plan(fingerprint=it.fingerprint, target="onnxruntime", layers=layers)
    with pytest.raises(ConfigError, match=r"one criterion for all layers, got magnitude, taylor; .* Static\(\)"):
        prepare(it, None, plan, schedule=GRADUAL, steps=5)


def test_a_state_of_another_plan_is_refused() -> None:
    it = network()
    other = prepare(it, None, planned(it, sparse=False), schedule=GRADUAL, steps=5)
    prepared = prepare(it, None, planned(it), schedule=GRADUAL, steps=5)
    with pytest.raises(ConfigError, match="the state is of another plan or schedule"):
        prepared.load_state_dict(other.state_dict())
    weights = {name: tensor for name, tensor in prepared.state_dict().items() if name.startswith("module.")}
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"pruner\.\*\""):
        prepared.load_state_dict(weights)
    assert prepared.load_state_dict(weights, strict=False).missing_keys == ["pruner.*"]
