"""`tt.quantize`: which layers get which bits; mixed precision is the best of all; what is asked wrongly is refused."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from prune_nets import attention, residual
from torch import nn

import trimtab as tt
from trimtab.errors import ConfigError, PlanError, TaskError
from trimtab.graph import capture
from trimtab.plan import PER_TENSOR
from trimtab.search.quantizing.mixed import choose_bits
from trimtab.search.quantizing.sensitivities.divergence import Divergence
from trimtab.search.quantizing.sensitivities.fisher import Fisher
from trimtab.search.quantizing.sensitivities.hessian import Hessian
from trimtab.stats import Found, Stats, collect

BITS = (2, 3, 4, 8)


@pytest.fixture(scope="module")
def network():
    return residual()


@pytest.fixture(scope="module")
def batches():
    return [(torch.randn(9, 3, 6, 6), torch.randint(5, (9,))) for _ in range(2)]


def weight_bits(plan):
    return {decision.layer: decision.weight.bits if decision.weight else None for decision in plan.layers}


def entries_of(network):
    return {layer.name: network.module.get_parameter(layer.weight).numel() for layer in network.layers}


def test_every_layer_gets_the_bits_that_were_asked_for_and_the_ends_at_least_eight(network):
    plan = tt.quantize(network, weights=4, activations=6, seed=3)
    middle = ["first.a", "first.b", "second.a", "second.b"]
    assert weight_bits(plan) == {"stem": 8, **dict.fromkeys(middle, 4), "head": 8}
    assert {d.layer: d.activation.bits for d in plan.layers} == {"stem": 8, **dict.fromkeys(middle, 6), "head": 8}
    assert {d.activation.granularity for d in plan.layers} == {PER_TENSOR}
    assert (plan.seed, plan.target) == (3, "onnxruntime")
    everywhere = tt.quantize(network, weights=4, activations=6, first_and_last=None)
    assert set(weight_bits(everywhere).values()) == {4}
    assert set(weight_bits(tt.quantize(network, weights=8, first_and_last=4)).values()) == {8}


def test_weights_only_partial_and_names_pass_through(network):
    plan = tt.quantize(network, activations=None, keep=["first.a", "head"], ranges="minmax", learned="pact")
    assert {decision.layer for decision in plan.layers} == {"stem", "first.b", "second.a", "second.b"}
    assert all(decision.activation is None and decision.learned == "pact" for decision in plan.layers)
    activations_only = tt.quantize(network, weights=None)
    assert set(weight_bits(activations_only).values()) == {None}
    assert {decision.activation.bits for decision in activations_only.layers} == {8}


def test_embeddings_and_recurrent_matrices_are_stored_and_ranges_suit_the_bits():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.lstm = nn.Embedding(20, 8), nn.LSTM(8, 16, batch_first=True)
            self.hidden, self.head = nn.Linear(16, 8), nn.Linear(8, 4)

        def forward(self, x):
            return self.head(F.relu(self.hidden(self.lstm(self.table(x))[0][:, -1])))

    words = capture(Words().eval(), torch.randint(20, (3, 5)))
    plan = tt.quantize(words, activations=4, keep=["lstm.weight_ih_l0", "lstm.weight_hh_l0"])
    found = {decision.layer: decision for decision in plan.layers}
    assert list(found) == ["table", "hidden", "head"]
    assert found["table"].activation is None
    assert (found["hidden"].ranges, found["head"].ranges) == ("mse", "minmax")
    everything = {decision.layer: decision for decision in tt.quantize(words, dynamic=True).layers}
    assert {"lstm.weight_ih_l0", "lstm.weight_hh_l0"} < set(everything)
    assert all(d.activation.dynamic for name, d in everything.items() if name != "table")
    tables = tt.quantize(words, activations=None)
    assert {decision.layer for decision in tables.layers} == {"table", "hidden", "head"}
    tt.apply(words, tt.quantize(words))


def test_layers_at_the_ends_are_on_the_symmetric_grid_where_they_have_more_bits_than_asked(network):
    plan = tt.quantize(network, weights=4, grid="power_of_two")
    grids = {decision.layer: decision.weight.grid for decision in plan.layers}
    assert grids.pop("stem") == grids.pop("head") == "symmetric"
    assert set(grids.values()) == {"power_of_two"}


def test_the_ends_are_the_layers_without_another_before_or_after_them():
    class Towers(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(4, 8), nn.Linear(3, 8)
            self.deep, self.top, self.side = nn.Linear(8, 8), nn.Linear(16, 2), nn.Linear(8, 2)

        def forward(self, x, y):
            a, b = F.relu(self.left(x)), F.relu(self.right(y))
            c = F.relu(self.deep(a))
            return self.top(torch.cat([c, b], 1)), self.side(c)

    towers = capture(Towers().eval(), (torch.randn(3, 4), torch.randn(3, 3)))
    for net, ends in ((towers, {"left", "right", "top", "side"}), (attention(), {"q", "k", "v", "down"})):
        bits = weight_bits(tt.quantize(net, weights=4))
        assert {name for name in bits if bits[name] == 8} == ends


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_mixed_precision_is_the_best_of_all_combinations(data):
    layers = data.draw(st.integers(1, 5))
    number = st.floats(0, 1e3, allow_subnormal=False)
    entries = {f"layer{i}": data.draw(st.integers(1, 5000)) for i in range(layers)}
    losses = {
        name: {bits: data.draw(number) for bits in data.draw(st.sets(st.sampled_from(BITS), min_size=1))}
        for name in entries
    }
    average = data.draw(st.floats(2, 8))
    total = sum(entries.values())
    kept = [
        sum(losses[name][bits] for name, bits in zip(entries, choice, strict=True))
        for choice in itertools.product(*(losses[name] for name in entries))
        if sum(bits * entries[name] for name, bits in zip(entries, choice, strict=True)) <= average * total
    ]
    if not kept:
        with pytest.raises(ConfigError, match=r"cannot be reached.*raise average"):
            choose_bits(losses, entries, average)
        return
    chosen = choose_bits(losses, entries, average)
    assert sum(bits * entries[name] for name, bits in chosen.items()) <= average * total * (1 + 1e-8)
    found = sum(losses[name][bits] for name, bits in chosen.items())
    assert found <= min(kept) + 1e-3 * max(min(kept), 1e-3)


def test_what_is_left_of_the_average_goes_where_it_costs_nothing():
    losses = {"flat": dict.fromkeys(BITS, 0.0), "steep": {2: 9.0, 3: 4.0, 4: 1.0, 8: 0.0}}
    assert choose_bits(losses, {"flat": 10, "steep": 10}, 6) == {"flat": 4, "steep": 8}
    assert choose_bits(losses, {"flat": 10, "steep": 30}, 7.5) == {"flat": 4, "steep": 8}
    assert choose_bits(losses, {"flat": 10, "steep": 10}, 8) == {"flat": 8, "steep": 8}


@pytest.mark.parametrize("sensitivity", ["divergence", "hessian", "fisher"])
def test_an_average_is_kept_and_used(network, batches, sensitivity):
    stats = collect(network, batches, F.cross_entropy, {"hessian", "fisher"})
    entries = entries_of(network)
    plan = tt.quantize(network, average=3.5, sensitivity=sensitivity, stats=stats, batches=batches, first_and_last=None)
    bits = weight_bits(plan)
    used = sum(bits[name] * entries[name] for name in entries) / sum(entries.values())
    assert 3 < used <= 3.5
    tt.apply(network, plan)
    ends = weight_bits(tt.quantize(network, average=6, sensitivity=sensitivity, stats=stats, batches=batches))
    assert ends["stem"] == ends["head"] == 8


def test_bits_go_where_rounding_moves_the_outputs_most(network, batches):
    """A layer that adds nothing may have the fewest bits; the outputs are then those of the other layers' bits."""
    idle = network.clone()
    with torch.no_grad():
        idle.module.get_parameter("second.b.weight").mul_(1e-6)
        idle.module.get_parameter("second.b.bias").zero_()
    entries = entries_of(idle)
    wanted = {name: 2 if name in {"second.a", "second.b"} else 8 for name in entries}
    average = sum(wanted[name] * entries[name] for name in entries) / sum(entries.values())
    plan = tt.quantize(idle, average=average, batches=batches, first_and_last=None)
    assert weight_bits(plan) == wanted


def test_divergence_is_what_the_outputs_move(network, batches):
    weight = network.module.get_parameter("first.b.weight").detach()
    rounded = weight + 0.1 * torch.randn_like(weight)
    measure = Divergence(network, Stats(), [inputs for inputs, _ in batches])
    found = measure.loss("first.b.weight", rounded)
    moved = network.clone()
    moved.load_state_dict(moved.state_dict() | {"first.b.weight": rounded})
    x = torch.cat([inputs for inputs, _ in batches])
    with torch.no_grad():
        ours, theirs = moved(x).double().numpy(), network(x).double().numpy()
    assert found == pytest.approx(((ours - theirs) ** 2).mean() / theirs.var(), rel=1e-4)
    assert measure.loss("first.b.weight", weight) == 0


def test_hessian_and_fisher_weigh_the_squared_error(network):
    weight = network.module.get_parameter("head.weight").detach()
    numbers = torch.rand(weight.shape, dtype=torch.float64)
    error = torch.randn(weight.shape)
    stats = Stats(found={name: Found(entries={"head.weight": numbers}) for name in ("hessian", "fisher")})
    assert Hessian(network, stats, []).loss("head.weight", weight + error) == pytest.approx(
        float(numbers.mean() * error.double().square().sum()), rel=1e-4
    )
    assert Fisher(network, stats, []).loss("head.weight", weight + error) == pytest.approx(
        0.5 * float((numbers * error.double() ** 2).sum()), rel=1e-4
    )
    below = Stats(found={"hessian": Found(entries={"head.weight": -numbers})})
    assert Hessian(network, below, []).loss("head.weight", weight + error) == 0


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        ({"keep": ["fist.a"]}, ConfigError, r"keep: unknown layer 'fist.a'; near matches: first.a"),
        ({"weights": None, "activations": None}, ConfigError, "neither weights nor activations"),
        ({"weights": None, "average": 4}, ConfigError, "give weights, or leave average out"),
        ({"average": 2.2, "batches": "some"}, ConfigError, r"average of 2.2 bits cannot be reached.* it is \d\.\d\d\d"),
        ({"average": 9, "batches": "some"}, ConfigError, r"above all choices \[2, 3, 4, 8\]; lower it"),
        ({"average": 4}, TaskError, "measures on batches and got none"),
        ({"average": 4, "sensitivity": "hessian"}, ConfigError, r"needs statistics \(hessian\)"),
        ({"average": 4, "sensitivity": "taste"}, ConfigError, "known: divergence, fisher, hessian"),
        ({"average": 9, "choices": (16,), "batches": "some"}, PlanError, "16 bits .* is not executed by target"),
        ({"weights": 16}, PlanError, "16 bits .* is not executed by target 'onnxruntime'; .* it has: .*8 bits"),
        ({"activations": 16}, PlanError, "16 bits .* is not executed by target 'onnxruntime'; .* it has: .*8 bits"),
        ({"grid": "log5"}, ConfigError, "log5"),
        ({"ranges": "guess"}, ConfigError, "guess"),
        ({"solver": "guess"}, ConfigError, "guess"),
        ({"target": "toaster"}, ConfigError, "unknown target 'toaster'"),
        ({"keep": ["stem", "first.a", "first.b", "second.a", "second.b", "head"]}, ConfigError, "every layer stays"),
    ],
)
def test_what_is_asked_wrongly_is_refused_in_one_line(network, batches, asked, error, said):
    if "batches" in asked:
        asked = asked | {"batches": batches}
    with pytest.raises(error, match=said) as caught:
        tt.quantize(network, **asked)
    assert "\n" not in str(caught.value)
