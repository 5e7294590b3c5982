"""What every pruner keeps, whatever the schedule: the asked sparsity, zeros that hold, and an exact resume."""

import io
import itertools

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparse_nets import batch, mixed, perceptron, sgd, train
from torch.nn.functional import cross_entropy

from trimtab.errors import ConfigError, NumericsError, PlanError
from trimtab.plan import Dynamic, Gradual, Iterative, Kernels, LayerDecision, NofM, Rewind, RigL, Static, Tiles, Weights
from trimtab.prune.pruner import make_pruner

SPARSITY = {
    "stem": Weights(fraction=0.6),
    "body": Kernels(fraction=0.5),
    "lstm.weight_ih_l0": Tiles(shape=(4, 2), fraction=0.7),
    "lstm.weight_hh_l0": NofM(kept=1, of=4),
}
PIECES = {"stem.weight": 1, "body.weight": 9, "lstm.weight_ih_l0": 8, "lstm.weight_hh_l0": 1}
REMOVED = {"stem.weight": 0.6, "body.weight": 0.5, "lstm.weight_ih_l0": 0.7, "lstm.weight_hh_l0": 0.75}
PARAMETERS = tuple(REMOVED)
SCHEDULES = {
    "static": Static(),
    "iterative": Iterative(rounds=3),
    "gradual": Gradual(every=4),
    "dynamic": Dynamic(every=4, curve="linear"),
    "rigl": RigL(every=4),
    "rewind": Rewind(rounds=3, to=0.1),
}
WITH_CRITERIA = [
    *((name, "magnitude") for name in SCHEDULES),
    ("gradual", "taylor"),
    ("gradual", "movement"),
    ("dynamic", "taylor"),
    ("dynamic", "movement"),
    ("rigl", "random"),
    ("rewind", "taylor"),
]
STEPS = 30


def zeros_expected(name, numel, level):
    if name == "lstm.weight_hh_l0":
        return numel // 4 * round(3 * level)
    pieces = numel // PIECES[name]
    return round(REMOVED[name] * level * pieces) * PIECES[name]


@pytest.mark.parametrize(("schedule", "criterion"), WITH_CRITERIA)
def test_the_level_is_reached_to_the_entry_at_every_step_and_held(schedule, criterion):
    network = mixed()
    pruner = make_pruner(network, SPARSITY, {}, SCHEDULES[schedule], STEPS, seed=3, criterion=criterion)
    assert set(pruner.masks) == set(PARAMETERS)
    assert (pruner.level, pruner.finished) == (0, False)
    pruner.begin()
    parameters, levels = dict(network.named_parameters()), [pruner.level]

    def watch():
        levels.append(pruner.level)
        for name in PARAMETERS:
            mask = pruner.masks[name]
            assert int((~mask).sum()) == zeros_expected(name, mask.numel(), pruner.level)
            assert not bool(parameters[name][~mask].any())
            assert pruner.finished == (pruner.level == 1)

    train(network, pruner, sgd(network), STEPS, watch=watch)
    assert levels == sorted(levels)
    assert pruner.finished
    body = pruner.masks["body.weight"].flatten(2)
    assert torch.equal(body.any(2), body.all(2))
    tiles = pruner.masks["lstm.weight_ih_l0"].unflatten(1, (-1, 2)).unflatten(0, (-1, 4))
    assert torch.equal(tiles.any(3).any(1), tiles.all(3).all(1))
    blocks = pruner.masks["lstm.weight_hh_l0"].unflatten(1, (-1, 4)).sum(2)
    assert bool((blocks == 1).all())


@pytest.mark.parametrize(
    ("schedule", "criterion", "comes_back"),
    [
        (Iterative(rounds=5), "magnitude", False),
        (Gradual(every=1), "magnitude", False),
        (Gradual(every=1), "movement", False),
        (Dynamic(every=1, slack=0.0), "magnitude", True),
        (Dynamic(every=1, slack=0.0), "movement", True),
        (RigL(every=1), "magnitude", True),
    ],
)
def test_what_was_removed_comes_back_only_where_it_may(schedule, criterion, comes_back):
    network = mixed()
    pruner = make_pruner(network, SPARSITY, {}, schedule, STEPS, criterion=criterion)
    pruner.begin()
    masks = [dict(pruner.masks)]
    train(network, pruner, sgd(network), STEPS, watch=lambda: masks.append(dict(pruner.masks)))
    back = sum(int((~a[n] & b[n]).sum()) for a, b in itertools.pairwise(masks) for n in PARAMETERS)
    assert bool(back) is comes_back


@settings(max_examples=15, deadline=None)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(2, 9),
    fraction=st.floats(0.05, 0.95),
    schedule=st.sampled_from([Static(), Iterative(rounds=2), Gradual(every=1), Dynamic(every=1), RigL(every=1)]),
)
def test_any_share_of_any_matrix(rows, columns, fraction, schedule):
    network = perceptron(columns, rows, 4)
    wanted = round(fraction * rows * columns)
    if wanted == rows * columns:
        with pytest.raises(PlanError, match="leaves nothing"):
            make_pruner(network, {"0": Weights(fraction=fraction)}, {}, schedule, 6)
        return
    pruner = make_pruner(network, {"0": Weights(fraction=fraction)}, {}, schedule, 6)
    pruner.begin()
    train(network, pruner, sgd(network), 6)
    assert int((~pruner.masks["0.weight"]).sum()) == wanted
    assert int((dict(network.named_parameters())["0.weight"] == 0).sum()) == wanted


def adamw(network):
    return torch.optim.AdamW(network.parameters(), lr=0.01)


@pytest.mark.parametrize(("stop_at", "optimizer"), [(5, sgd), (17, adamw)])
@pytest.mark.parametrize(("schedule", "criterion"), WITH_CRITERIA)
def test_resume_is_exact(schedule, criterion, stop_at, optimizer):
    start, kept = mixed(), {"lstm.l0": (0, 1, 2, 3, 5, 7)}
    sparsity = {**SPARSITY, "lstm.weight_hh_l0": NofM(kept=1, of=3)}

    def begin(network):
        pruner = make_pruner(network, sparsity, kept, SCHEDULES[schedule], STEPS, seed=5, criterion=criterion)
        return pruner, optimizer(network)

    whole = start.clone()
    pruner, opt = begin(whole)
    pruner.begin()
    train(whole, pruner, opt, STEPS)

    first = start.clone()
    half, opt = begin(first)
    half.begin()
    train(first, half, opt, stop_at)
    stored = safetensors.torch.load(safetensors.torch.save(half.state()))
    weights, optimizer_state = first.state_dict(), io.BytesIO()
    torch.save(opt.state_dict(), optimizer_state)
    optimizer_state.seek(0)

    second = start.clone()
    resumed, opt = begin(second)
    second.load_state_dict(weights)
    opt.load_state_dict(torch.load(optimizer_state))
    resumed.restore(stored)
    train(second, resumed, opt, STEPS - stop_at, first=stop_at)
    assert resumed.level == pruner.level == 1
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    for name, mask in pruner.masks.items():
        assert torch.equal(mask, resumed.masks[name]), name


def test_state_is_a_copy():
    network = mixed()
    pruner = make_pruner(network, SPARSITY, {}, Dynamic(every=2), STEPS, criterion="movement")
    pruner.begin()
    train(network, pruner, sgd(network), 5)
    state = pruner.state()
    before = {name: tensor.clone() for name, tensor in state.items()}
    train(network, pruner, sgd(network), 5, first=5)
    assert all(torch.equal(state[name], before[name]) for name in state)
    assert any(not torch.equal(state[name], tensor) for name, tensor in pruner.state().items())


def test_nothing_to_remove_is_a_pruner_too():
    network = mixed()
    pruner = make_pruner(network, {}, {}, Gradual(every=2), 10)
    pruner.begin()
    train(network, pruner, sgd(network), 10)
    assert pruner.finished
    assert pruner.masks == {}


def test_a_step_without_a_change_costs_no_new_masks():
    network = mixed()
    pruner = make_pruner(network, SPARSITY, {}, Gradual(every=10, stop=1), STEPS)
    pruner.begin()
    train(network, pruner, sgd(network), 10)
    masks = pruner.masks
    train(network, pruner, sgd(network), 9, first=10)
    assert pruner.masks is masks


def test_bad_input_is_named():
    network = mixed()

    def made(schedule, criterion="magnitude", **sparsity):
        return make_pruner(network, sparsity, {}, schedule, STEPS, criterion=criterion)

    half = Weights(fraction=0.5)
    with pytest.raises(PlanError, match=r"sparsity: no layer 'bn' that can be sparse; there are: stem, body, lstm\."):
        made(Static(), bn=half)
    with pytest.raises(PlanError, match=r"stem: 2 of 4 needs inputs in multiples of 4, .* choose an `of`"):
        made(Static(), stem=NofM(kept=2, of=4))
    with pytest.raises(PlanError, match="unknown group 'steam'"):
        make_pruner(network, {}, {"steam": (0,)}, Static(), STEPS)
    with pytest.raises(ConfigError, match="'fisher' is not measured while a network trains; known there: magnitude,"):
        made(Gradual(), criterion="fisher", stem=half)
    with pytest.raises(ConfigError, match=r"'rigl' removes before the first step, .* 'taylor' .* take 'magnitude'"):
        made(RigL(), criterion="taylor", stem=half)
    with pytest.raises(ConfigError, match=r"step\(\) before begin\(\); call begin\(\)"):
        made(Static(), stem=half).step()
    with pytest.raises(ConfigError, match=r"another plan or schedule, which differ in 'entries/stem.weight'"):
        made(Static(), stem=half).restore(made(Static()).state())
    with pytest.raises(ConfigError, match=r"differ in 'latent/stem.weight'; start anew"):
        made(Dynamic(), stem=half).restore(made(Gradual(), stem=half).state())


@pytest.mark.parametrize(
    ("schedule", "criterion"), [("gradual", "taylor"), ("dynamic", "movement"), ("rigl", "magnitude")]
)
def test_missing_gradients_are_named(schedule, criterion):
    network = mixed()
    pruner = make_pruner(network, {"stem": Weights(fraction=0.5)}, {}, SCHEDULES[schedule], STEPS, criterion=criterion)
    pruner.begin()
    optimizer = sgd(network)
    message = (
        r"stem.weight: .* needs its gradient, got None; call step\(\) after optimizer.step\(\) and before zero_grad"
    )

    def train_and_clear():
        for i in range(STEPS):
            x, y = batch(network, i)
            cross_entropy(network(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
            pruner.step()

    with pytest.raises(ConfigError, match=message):
        train_and_clear()


def test_weights_that_are_not_finite_are_named():
    network = mixed()
    with torch.no_grad():
        dict(network.named_parameters())["stem.weight"][0, 0, 0, 0] = torch.nan
    pruner = make_pruner(network, {"stem": Weights(fraction=0.5)}, {}, Static(), STEPS)
    with pytest.raises(NumericsError, match=r"stem.weight: magnitude is not finite at step 0; lower the learning rate"):
        pruner.begin()


def test_it_runs_beside_fake_quantization():
    from trimtab.lower.targets import TARGETS
    from trimtab.plan import PER_CHANNEL, Scheme
    from trimtab.quant import calibrate, insert_fake_quantization

    network = perceptron(8, 16, 16, 4)
    scheme = {"weight": Scheme(grid="symmetric", granularity=PER_CHANNEL), "activation": Scheme()}
    decisions = {name: LayerDecision(layer=name, **scheme) for name in ("0", "2", "4")}
    insert_fake_quantization(network.module, decisions, TARGETS.load("onnxruntime")().capabilities)
    network.refresh()
    calibrate(network.module, [batch(network, 0)[0]])
    network.train()
    sparsity = {"2": NofM(kept=2, of=4)}
    pruner = make_pruner(network, sparsity, {"0": tuple(range(0, 16, 2))}, Dynamic(every=3), STEPS)
    pruner.begin()
    train(network, pruner, torch.optim.SGD(network.parameters(), lr=0.02), STEPS)
    assert pruner.finished
    weight = dict(network.named_parameters())["2.weight"][:, ::2]
    assert bool((weight.unflatten(1, (-1, 4)).count_nonzero(2) == 2).all())
