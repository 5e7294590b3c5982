"""Recurrent networks that lost units: what is left comes nearest to the original's gates."""

import importlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import trimtab as tt
from trimtab.graph import Network
from trimtab.plan import PER_CHANNEL, GroupDecision, LayerDecision, Plan, Scheme, Weights
from trimtab.quant import WeightFakeQuantize

reconstruct = importlib.import_module("trimtab.recover.reconstruct")
KINDS = ["LSTM", "GRU", "RNN"]
MATRICES = ("rnn.weight_ih_l0", "rnn.weight_hh_l0")
DYNAMIC = Scheme(grid="affine", bits=8, dynamic=True)


class Sequences(nn.Module):
    def __init__(self, kind: str, units: int = 12, **settings: object) -> None:
        super().__init__()
        self.rnn = getattr(nn, kind)(5, units, batch_first=True, **settings)
        self.head = nn.Linear(units * (2 if settings.get("bidirectional") else 1), 4)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


def captured(kind: str, **settings: object) -> Network:
    """With a memory: recurrent weights of some size."""
    torch.manual_seed(0)
    model = Sequences(kind, **settings)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.normal_(0, 0.6 if "weight" in name else 0.3)
    return tt.capture(model.eval(), sequences(3))


def sequences(rows: int) -> torch.Tensor:
    """Two random walks, seen by five sensors: what units remember is alike."""
    mixed = torch.randn(2, 5, generator=torch.Generator().manual_seed(1))
    return torch.randn(rows, 7, 2).cumsum(1) @ mixed / 2


def cut_plan(network: Network, count: int, **parts: object) -> Plan:
    groups = tuple(GroupDecision(group=g.name, kept=tuple(range(count))) for g in network.groups)
    return Plan(fingerprint=network.fingerprint, target="onnxruntime", groups=groups, **parts)


def distance(a, b) -> float:
    with torch.no_grad():
        x = sequences(300)
        return float((a(x) - b(x)).square().mean() / b(x).var(0).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_a_unit_that_another_repeats_can_go_without_a_loss(kind):
    network = captured(kind)
    with torch.no_grad():
        for name, value in network.module.named_parameters():
            if name.startswith("rnn."):  # the last unit gets the first one's gates
                gates = value.view(-1, 12, *value.shape[1:])
                gates[:, 11] = gates[:, 0]
    plan = cut_plan(network, 11)
    cut = tt.apply(network, plan)
    assert distance(cut, network) > 1e-3
    assert distance(tt.repair(cut, network, plan, [sequences(400)]), network) < 1e-8


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "settings",
    [{}, {"bias": False}, {"num_layers": 2}, {"bidirectional": True}],
    ids=["plain", "no bias", "two", "both"],
)
def test_solving_gates_comes_nearer_than_solving_what_reads_them(kind, settings, monkeypatch):
    network, data = captured(kind, **settings), [sequences(150) for _ in range(2)]
    plan = cut_plan(network, 9)
    cut = tt.apply(network, plan)
    repaired = tt.repair(cut, network, plan, data)
    monkeypatch.setattr(reconstruct, "recurrences", lambda *_: [])
    readers = tt.repair(cut, network, plan, data)
    assert distance(repaired, network) < distance(readers, network) < distance(cut, network)


@pytest.mark.parametrize("kind", KINDS)
def test_gates_are_the_least_squares_of_float64(kind):
    network, data = captured(kind), sequences(500)
    plan = cut_plan(network, 8)
    repaired = tt.repair(tt.apply(network, plan), network, plan, [data])
    with torch.no_grad():
        model = Sequences(kind).double()
        model.load_state_dict({name: value.double() for name, value in network.state_dict().items()})
        out = model.rnn(data.double())[0]
        back = torch.cat([torch.zeros(500, 1, 12, dtype=torch.float64), out[:, :-1]], 1).flatten(0, 1)
        rows = torch.arange(len(model.rnn.bias_hh_l0)).view(-1, 12)[:, :8].flatten()
        wanted = F.linear(back, model.rnn.weight_hh_l0, model.rnn.bias_hh_l0)[:, rows]
        read = torch.cat([back[:, :8], torch.ones(len(back), 1, dtype=torch.float64)], 1)
        best = torch.linalg.lstsq(read, wanted).solution
        state = repaired.state_dict()
        found = torch.cat([state["rnn.weight_hh_l0"], state["rnn.bias_hh_l0"][:, None]], 1).double().T
        least, error = ((read @ solution - wanted).square().mean() for solution in (best, found))
        assert error < 1.002 * least  # it is damped a little
        gates = F.linear(data, state["rnn.weight_ih_l0"], state["rnn.bias_ih_l0"]).double()
        first = F.linear(data.double(), model.rnn.weight_ih_l0, model.rnn.bias_ih_l0)[..., rows]
        torch.testing.assert_close(gates, first, atol=1e-3, rtol=0)


def error_of(network: Network, data: list[torch.Tensor], **decided: object) -> tuple[float, Network]:
    layers = tuple(LayerDecision(layer=name, **decided) for name in MATRICES)
    plan = Plan(fingerprint=network.fingerprint, target="onnxruntime", layers=layers)
    repaired = tt.repair(tt.apply(network, plan), network, plan, data)
    return distance(repaired, network), repaired


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_left_of_sparse_matrices_makes_up_for_the_zeros(kind):
    network, data, half = captured(kind), [sequences(300)], Weights(fraction=0.5)
    least, solved = error_of(network, data, solver="joint", sparsity=half)
    for name in MATRICES:
        weight = solved.state_dict()[name]
        assert int((weight == 0).sum()) == weight.numel() // 2
    assert least < 0.7 * error_of(network, data, solver="nearest", sparsity=half)[0]


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_matrices_of_integers_are_solved(kind):
    network, data = captured(kind), [sequences(300)]
    int8 = Scheme(grid="symmetric", bits=8, granularity=PER_CHANNEL)
    error, solved = error_of(network, data, solver="joint", weight=int8, activation=DYNAMIC)
    assert error < 1e-2
    state = solved.state_dict()
    for name in MATRICES:
        rounding = solved.module.get_submodule(f"fake_quantize.{name.replace('.', '_')}")
        assert isinstance(rounding, WeightFakeQuantize)
        torch.testing.assert_close(rounding(state[name]), state[name], rtol=1e-5, atol=1e-7)


def test_a_recurrence_that_comes_back_projected_stays():
    torch.manual_seed(0)
    model = Sequences("LSTM")
    model.rnn, model.head = nn.LSTM(5, 12, proj_size=6, batch_first=True), nn.Linear(6, 4)
    network = tt.capture(model.eval(), sequences(3))
    plan = Plan(fingerprint=network.fingerprint, target="onnxruntime")
    repaired = tt.repair(tt.apply(network, plan), network, plan, [sequences(50)])
    assert torch.equal(repaired.state_dict()["rnn.weight_hh_l0"], network.state_dict()["rnn.weight_hh_l0"])


def test_a_higher_price_buys_more_zeros_and_more_error_in_recurrent_weights_too():
    network, data = captured("LSTM"), [sequences(300)]
    int8 = Scheme(grid="symmetric", bits=8, granularity=PER_CHANNEL)
    decided = {"weight": int8, "activation": DYNAMIC, "solver": "rate_distortion"}
    found = [error_of(network, data, price=price, **decided) for price in (1e-7, 1e-4, 1e-2)]
    zeros = [sum(int((solved.state_dict()[name] == 0).sum()) for name in MATRICES) for _, solved in found]
    errors = [error for error, _ in found]
    assert 2 * zeros[0] < zeros[1] < zeros[2]
    assert 2 * errors[0] < errors[1] < errors[2]
    assert errors[0] < 1e-2
