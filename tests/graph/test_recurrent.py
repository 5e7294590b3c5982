"""Recurrent networks: every layer and direction has a width of its own; torch's own modules are the reference."""

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from graph_proofs import captured, prove, randomized, some, widths
from torch import Tensor, nn

from trimtab.errors import ConfigError
from trimtab.graph import Network, capture, cut, load, transplant
from trimtab.graph.double import doubled
from trimtab.graph.surgery import masks

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

KINDS: dict[str, Callable[..., Any]] = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "tanh": nn.RNN,
    "relu": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
}

Read = Callable[[Tensor, Any], Tensor]


class Reader(nn.Module):
    """[N, T, 5] → a recurrent stack of 6 units → what `read` makes of outputs and last states → 3."""

    def __init__(self, layer: Any, read: Read, width: int, given: int = 0) -> None:
        super().__init__()
        self.rnn, self.read, self.out = layer, read, nn.Linear(width, 3)
        self.start = nn.Linear(5, given) if given else None

    def forward(self, x: Tensor) -> Tensor:
        hx = None
        if self.start is not None:
            h = self.start(x[:, 0])[None].expand(self.rnn.num_layers, -1, -1)
            hx = (h, torch.tanh(h)) if isinstance(self.rnn, nn.LSTM) else h
        return self.out(self.read(*self.rnn(x if self.rnn.batch_first else x.transpose(0, 1), hx)))


def reader(kind: str, read: Read | None = None, width: int = 0, given: int = 0, **options: Any) -> Reader:
    layer = KINDS[kind](5, 6, **options)
    outputs = (options.get("proj_size") or 6) * (1 + bool(options.get("bidirectional")))
    return Reader(layer, read or (lambda y, _: y), width or outputs, given)


def close(model: nn.Module, example: Tensor) -> Network:
    """The network of a randomized model; the reverse direction may round its last bit otherwise."""
    network = capture(randomized(model), example)
    for rows in (2, 5):
        x = torch.randn(rows, *example.shape[1:])
        torch.testing.assert_close(network(x), model(x), rtol=1e-5, atol=1e-5)
    return network


def prove_by_torch(network: Network, model: nn.Module) -> None:
    """The cut network equals the user's own module with masked parameters, in float64."""
    kept = {group.name: some(group.width) for group in network.groups}
    masked = copy.deepcopy(model).double()
    with torch.no_grad():
        for name, mask in masks(network, kept).items():
            masked.get_parameter(name).mul_(mask)
    x = torch.randn(6, *network.example.shape[1:], dtype=torch.float64)
    small = cut(doubled(network), kept)
    torch.testing.assert_close(small(x), masked(x), rtol=1e-9, atol=1e-9)


STACKS = [
    ("lstm", {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    ("lstm", {"num_layers": 3, "bias": False, "dropout": 0.5}),
    ("lstm", {"bidirectional": True, "bias": False, "batch_first": True}),
    ("lstm", {"num_layers": 2, "bidirectional": True, "proj_size": 4, "dropout": 0.5}),
    ("lstm", {"proj_size": 3, "bias": False, "batch_first": True}),
    ("gru", {"num_layers": 2, "bidirectional": True}),
    ("gru", {"num_layers": 2, "bias": False, "batch_first": True}),
    ("tanh", {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    ("relu", {"num_layers": 2, "bidirectional": True, "bias": False}),
    ("relu", {"batch_first": True}),
]


def names(options: dict[str, Any]) -> dict[str, int]:
    """The groups that a stack should have."""
    directions = ("", "_reverse") if options.get("bidirectional") else ("",)
    calls = [f"l{i}{d}" for i in range(options.get("num_layers", 1)) for d in directions]
    projected = {f"rnn.hr_{name}": options["proj_size"] for name in calls} if "proj_size" in options else {}
    return {f"rnn.{name}": 6 for name in calls} | projected


@pytest.mark.parametrize(("kind", "options"), STACKS)
def test_every_layer_and_direction_is_a_group(kind: str, options: dict[str, Any]) -> None:
    model = reader(kind, **options)
    network = close(model, torch.randn(3, 3, 5))
    assert widths(network, exact=True) == widths(network) == names(options), network.frozen
    prove(network)
    prove_by_torch(network, model)


def test_one_layer_of_one_direction_stays_as_it_is_bit_for_bit() -> None:
    for kind, bias in itertools.product(KINDS, (True, False)):
        network = captured(reader(kind, bias=bias, batch_first=True), torch.randn(3, 3, 5))
        assert sum("input" in str(node.target) for node in network.module.graph.nodes) == 1


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_layers_of_one_direction_compute_the_same_bits_in_train_too(kind: str) -> None:
    model = reader(kind, num_layers=3, dropout=0.5, batch_first=True)
    x = torch.randn(3, 3, 5)
    network = captured(model, x).train()
    model.train()
    for mode in (True, False):
        model.train(mode)
        network.train(mode)
        torch.manual_seed(3)
        expected = model(x)
        torch.manual_seed(3)
        assert torch.equal(network(x), expected)


def last(state: Any) -> Tensor:
    return state[0] if isinstance(state, tuple) else state


STATES: dict[str, tuple[Read, int, list[int]]] = {
    "last_layer": (lambda _, s: last(s)[-1], 6, [4]),
    "both_directions": (lambda _, s: torch.cat([last(s)[-2], last(s)[-1]], 1), 12, [4]),
    "range": (lambda _, s: last(s)[2:].transpose(0, 1).flatten(1), 12, [3]),
    "all_apart": (lambda _, s: torch.cat(last(s).unbind(0), 1), 24, [4]),
    "all_stacked": (lambda _, s: last(s).permute(1, 0, 2).reshape(-1, 24), 24, [1]),
}


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("name", STATES)
def test_last_states(name: str, kind: str) -> None:
    read, width, [count] = STATES[name]
    model = reader(kind, read, width, num_layers=2, bidirectional=True, batch_first=True)
    network = close(model, torch.randn(3, 3, 5))
    assert len(network.groups) == count, network.groups
    assert not any(frozen.name.startswith("rnn") for frozen in network.frozen)
    if kind == "lstm":
        prove(network)
    prove_by_torch(network, model)


@pytest.mark.parametrize("kind", KINDS)
def test_a_given_state_ties_the_layers_that_read_it(kind: str) -> None:
    model = reader(kind, given=6, num_layers=2, batch_first=True)
    network = close(model, torch.randn(3, 3, 5))
    assert widths(network, exact=True) == {"start": 6}, network.frozen
    assert "rnn.weight_hh_l1" in {member.parameter for member in network.group("start").members}
    prove_by_torch(network, model)


def test_a_state_that_is_not_zero_stays_where_a_unit_goes() -> None:
    class Started(nn.Module):
        def __init__(self, kind: str) -> None:
            super().__init__()
            self.kind, self.rnn, self.out = kind, KINDS[kind](5, 6, batch_first=True), nn.Linear(1, 3)

        def forward(self, x: Tensor) -> Tensor:
            ones = torch.ones(1, x.shape[0], 6)
            y, _ = self.rnn(x, (ones, ones) if self.kind == "lstm" else ones)
            return self.out(y.sum(-1, keepdim=True))

    exact = {kind: widths(close(Started(kind), torch.randn(3, 3, 5)), exact=True) for kind in KINDS}
    assert exact == {"lstm": {}, "gru": {}, "tanh": {"rnn.l0": 6}, "relu": {"rnn.l0": 6}}


def test_states_pass_from_an_encoder_to_a_decoder_layer_by_layer() -> None:
    class Sequences(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.LSTM(5, 6, num_layers=2, batch_first=True)
            self.decoder = nn.LSTM(5, 6, num_layers=2, batch_first=True)
            self.out = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            _, state = self.encoder(x)
            return self.out(self.decoder(x, state)[0])

    network = captured(Sequences(), torch.randn(3, 3, 5))
    assert widths(network) == {"encoder.l0": 6, "encoder.l1": 6}
    prove(network)


def test_a_state_that_is_written_into_is_still_right() -> None:
    def write(_: Tensor, state: Tensor) -> Tensor:
        state[1].mul_(2)
        return state.sum(0)

    network = close(reader("gru", write, 6, num_layers=2, batch_first=True), torch.randn(3, 3, 5))
    assert len(network.groups) <= 1


class Cells(nn.Module):
    """Cells in a Python loop."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.LSTMCell(5, 6), nn.GRUCell(6, 7, bias=False), nn.RNNCell(7, 8)
        self.d, self.out = nn.RNNCell(8, 9, nonlinearity="relu"), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        a: Any = None
        b = c = d = None
        for step in x.unbind(1):
            a = self.a(step, a)
            b = self.b(a[0], b)
            c = self.c(b, c)
            d = self.d(c, d)
        return self.out(d)


def test_cells_in_a_loop() -> None:
    model = Cells()
    network = captured(model, torch.randn(3, 3, 5))
    assert widths(network, exact=True) == {"a": 6, "b": 7, "c": 8, "d": 9}, network.frozen
    prove(network)
    prove_by_torch(network, model)
    small = cut(network, {"a": [0, 3], "b": [1, 2, 6], "d": [4]})
    own = transplant(small, model)
    assert (own.a.hidden_size, own.b.input_size, own.b.hidden_size, own.d.hidden_size) == (2, 2, 3, 1)


class LanguageModel(nn.Module):
    """Embedding, LSTM, linear with the embedding's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.rnn = nn.Embedding(11, 6), nn.LSTM(6, 6, num_layers=2, batch_first=True)
        self.out = nn.Linear(6, 11)
        self.out.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(self.words(x))[0])


def test_a_language_model_with_tied_weights() -> None:
    network = captured(LanguageModel(), torch.randint(11, (3, 3)))
    assert widths(network, exact=True) == {"words": 6, "rnn.l0": 6}, network.groups
    prove(network)


def test_a_convolution_before_and_a_linear_after() -> None:
    class Sound(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.rnn = nn.Conv1d(3, 8, 3), nn.GRU(8, 6, bidirectional=True, batch_first=True)
            self.hidden, self.out = nn.Linear(12, 7), nn.Linear(7, 2)

        def forward(self, x: Tensor) -> Tensor:
            y, _ = self.rnn(torch.relu(self.conv(x)).transpose(1, 2))
            return self.out(torch.relu(self.hidden(y)).mean(1))

    model = Sound()
    network = close(model, torch.randn(3, 3, 6))
    assert widths(network, exact=True) == {"conv": 8, "rnn.l0": 6, "rnn.l0_reverse": 6, "hidden": 7}
    prove(network)
    prove_by_torch(network, model)


def test_a_projected_layer_may_get_as_few_units_as_outputs() -> None:
    model = reader("lstm", lambda y, s: torch.cat([y[:, -1], s[1][0]], 1), 10, proj_size=4, batch_first=True)
    network = close(model, torch.randn(3, 3, 5))
    for count in (4, 3, 1):
        kept = {"rnn.l0": list(range(count)), "rnn.hr_l0": [0, 1, 3] if count < 3 else [0, 1, 2, 3]}
        masked = copy.deepcopy(model)
        with torch.no_grad():
            for name, mask in masks(network, kept).items():
                masked.get_parameter(name).mul_(mask)
        x = torch.randn(5, 3, 5)
        small = cut(network, kept)
        torch.testing.assert_close(small(x), masked(x), rtol=1e-5, atol=1e-5)
        assert small.module.get_parameter("rnn.weight_hr_l0").shape[1] == count


def test_save_and_load(tmp_path: Path) -> None:
    network = close(reader("lstm", num_layers=2, bidirectional=True, dropout=0.5), torch.randn(3, 3, 5))
    small = cut(network, {"rnn.l0": [0, 5], "rnn.l1_reverse": [1, 2, 3]})
    small.save(tmp_path / "net.safetensors")
    again = load(tmp_path / "net.safetensors")
    x = torch.randn(4, 3, 5)
    assert torch.equal(again(x), small(x))
    assert widths(again) == widths(small) == {"rnn.l0": 2, "rnn.l0_reverse": 6, "rnn.l1": 6, "rnn.l1_reverse": 3}
    assert not torch.equal(again.train()(x), again(x))


def test_transplant_needs_one_width_for_all() -> None:
    model = reader("gru", num_layers=2, bidirectional=True, batch_first=True)
    network = close(model, torch.randn(3, 3, 5))
    even = transplant(cut(network, {group.name: some(6)[:1] for group in network.groups}), model)
    assert (even.rnn.hidden_size, even.rnn.input_size) == (1, 5)
    with pytest.raises(ConfigError, match=r"one number of units for all layers.*l0: 2, l0_reverse: 6.*the Network"):
        transplant(cut(network, {"rnn.l0": [0, 1]}), model)


def test_many_steps_are_captured_at_once() -> None:
    network = capture(nn.LSTM(5, 6, num_layers=2, batch_first=True).eval(), torch.randn(3, 400, 5))
    assert len(list(network.module.graph.nodes)) < 60
