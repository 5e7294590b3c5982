"""Dead parts leave, and only they: planted zeros, traps, and random sparse networks against themselves."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from graph_nets import VGG, Autoencoder, CifarResNet, ConvNet1d, DenseNet, LeNet, MobileNet, ResNeXt, Shared
from graph_proofs import randomized
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from trimtab.graph import Network, capture, dead, shrink
from trimtab.graph.double import doubled
from trimtab.graph.verify import compare, fresh_inputs
from trimtab.tasks.task import call


def captured(model: nn.Module, example: object) -> Network:
    return capture(randomized(model), example)  # type: ignore[arg-type]


def zeroed(network: Network, *slices: tuple[str, object]) -> Network:
    with torch.no_grad():
        for name, index in slices:
            network.module.get_parameter(name)[index] = 0.0
    return network


def shrunk(network: Network) -> Network:
    """The smaller network, which computes the same in float64; the original is as it was."""
    before = {name: value.clone() for name, value in network.state_dict().items()}
    small = shrink(network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    inputs = fresh_inputs(network)
    with torch.no_grad():
        difference, count = compare(call(doubled(small), inputs), call(doubled(network), inputs))
    assert count > 0
    assert difference < 1e-12
    assert dead(small) == ({}, ())
    return small


def shapes(network: Network) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}


class Chain(nn.Module):
    """Three layers with a norm between the first two."""

    def __init__(self, act: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 5, 3, padding=1, bias=False)
        self.head = nn.Linear(5, 3)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.second(self.act(self.norm(self.first(x)))))
        return self.head(x.mean((2, 3)))


IMAGES = torch.randn(3, 2, 5, 5)
UNREAD = ("second.weight", (slice(None), 1))
SILENT = (("norm.weight", 4), ("norm.bias", 4))


def test_a_whole_network_stays() -> None:
    network = captured(Chain(), IMAGES)
    assert dead(network) == ({}, ())
    assert shapes(shrunk(network)) == shapes(network)


def test_what_nobody_reads_and_what_is_zero_leaves() -> None:
    network = zeroed(captured(Chain(), IMAGES), UNREAD, *SILENT)
    assert dead(network) == ({"first": (0, 2, 3, 5)}, ())
    small = shrunk(network)
    assert shapes(small)["second.weight"] == (5, 4, 3, 3)
    assert shapes(small)["norm.weight"] == (4,)


def test_a_unit_without_inputs_but_with_a_bias_stays() -> None:
    """It is a constant, and constants count."""
    network = zeroed(captured(Chain(), IMAGES), ("first.weight", 2))
    assert dead(network) == ({}, ())
    network = zeroed(captured(Chain(), IMAGES), ("first.weight", 2), ("first.bias", 2))
    assert dead(network) == ({}, ())  # the norm's mean and bias are left
    network = zeroed(captured(Chain(), IMAGES), ("second.weight", 2))
    assert dead(network) == ({"second": (0, 1, 3, 4)}, ())  # neither bias nor norm


def test_a_zero_that_an_activation_lifts_stays_until_nobody_reads_it() -> None:
    network = zeroed(captured(Chain(torch.sigmoid), IMAGES), *SILENT)
    assert dead(network) == ({}, ())
    zeroed(network, ("second.weight", (slice(None), 4)))
    assert dead(network)[0] == {"first": (0, 1, 2, 3, 5)}
    shrunk(network)


def test_death_spreads_to_what_only_the_dead_read() -> None:
    """Of the second layer only unit 0 is read, and that one reads only unit 3."""
    network = zeroed(
        captured(Chain(), IMAGES),
        ("head.weight", (slice(None), slice(1, 5))),
        ("second.weight", (0, [0, 1, 2, 4, 5])),
    )
    assert dead(network)[0] == {"second": (0,)}
    small = shrunk(network)
    assert shapes(small)["first.weight"] == (1, 2, 3, 3)
    assert shapes(small)["head.weight"] == (3, 1)


def test_the_last_unit_of_a_dead_layer_stays_and_lets_go_of_what_it_reads() -> None:
    network = zeroed(captured(Chain(), IMAGES), ("head.weight", slice(None)))
    small = shrunk(network)
    assert shapes(small)["head.weight"] == (3, 1)
    assert shapes(small)["second.weight"] == (1, 1, 3, 3)
    assert not small.module.get_parameter("second.weight").any()


def test_not_a_number_is_no_zero() -> None:
    network = zeroed(captured(Chain(), IMAGES), UNREAD)
    with torch.no_grad():
        network.module.get_parameter("second.weight")[0, 1, 0, 0] = torch.nan
    assert dead(network) == ({}, ())


class Readers(nn.Module):
    """Units that are read by more than weights."""

    def __init__(self, reader: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.make, self.read = nn.Linear(4, 6), nn.Linear(6, 3)
        self.reader = reader

    def forward(self, x: Tensor) -> Tensor:
        x = self.make(x)
        return self.read(x) + self.reader(x)


@pytest.mark.parametrize(
    "reader",
    [
        lambda x: x.mean(-1, keepdim=True),
        lambda x: (x * x).sum(-1, keepdim=True),
        lambda x: x.amax(-1, keepdim=True),
        lambda x: x @ x.transpose(-1, -2) @ x.new_ones(3, 3),
        lambda x: F.softmax(x, -1)[..., :3],
        lambda x: F.layer_norm(x, (6,))[..., :3],
        lambda x: x[..., :3],
        lambda x: x.norm(dim=-1, keepdim=True),
        lambda x: x.topk(3, -1).values,
    ],
)
def test_readers_without_weights_count(reader: Callable[[Tensor], Tensor]) -> None:
    network = zeroed(captured(Readers(reader), torch.randn(5, 3, 4)), ("read.weight", (slice(None), 2)))
    assert dead(network)[0] == {}
    shrunk(network)


def test_a_zero_does_not_count_in_a_sum_but_may_be_the_largest() -> None:
    made = (("make.weight", 2), ("make.bias", 2))
    for reader, gone in ((lambda x: (x * x).sum(-1, keepdim=True), True), (lambda x: x.amax(-1, keepdim=True), False)):
        network = zeroed(captured(Readers(reader), torch.randn(5, 3, 4)), *made)
        assert dead(network)[0] == ({"make": (0, 1, 3, 4, 5)} if gone else {})
        shrunk(network)


class Stream(nn.Module):
    """Linear layers that read and write the same units."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(F.relu(x + torch.tanh(self.mix(x))))


def test_a_matrix_that_reads_and_writes_the_same_units_is_told_apart_by_side() -> None:
    columns, rows = ("mix.weight", (slice(None), 2)), ("mix.weight", 2)
    read_by_none = zeroed(captured(Stream(), torch.randn(5, 4)), columns, ("head.weight", (slice(None), 2)))
    assert dead(read_by_none)[0] == {"stem": (0, 1, 3, 4, 5)}
    shrunk(read_by_none)
    made = (("stem.weight", 2), ("stem.bias", 2), ("mix.bias", 2))
    made_zero = zeroed(captured(Stream(), torch.randn(5, 4)), rows, *made)
    assert dead(made_zero)[0] == {"stem": (0, 1, 3, 4, 5)}
    shrunk(made_zero)
    for slices in ((columns, *made), (rows, ("head.weight", (slice(None), 2))), (columns,), (rows,)):
        network = zeroed(captured(Stream(), torch.randn(5, 4)), *slices)
        assert dead(network)[0] == {}


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 8, num_layers=2, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(16, 6, batch_first=True)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(self.lstm(x)[0])[0][:, -1])


def test_recurrent_units_leave() -> None:
    network = captured(Recurrent(), torch.randn(3, 4, 5))
    every = slice(None)
    zeroed(network, ("head.weight", (every, 2)), ("gru.weight_hh_l0", (every, 2)))  # nobody reads it
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):  # zero, though it is read
        zeroed(network, (f"lstm.{name}", [3, 11, 19, 27]))
    zeroed(network, ("lstm.weight_hh_l0", (every, 5)))
    for name in ("weight_ih_l1", "weight_ih_l1_reverse"):
        zeroed(network, (f"lstm.{name}", (every, 5)))
    assert dead(network)[0] == {"lstm.l0": (0, 1, 2, 4, 6, 7), "gru.l0": (0, 1, 3, 4, 5)}
    shrunk(network)


def test_heads_and_neurons_of_a_transformer_leave() -> None:
    network = captured(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), torch.randn(3, 4, 8))
    zeroed(network, ("linear2.weight", (slice(None), [1, 5])), ("linear1.weight", 4), ("linear1.bias", 4))
    zeroed(network, ("self_attn.out_proj.weight", (slice(None), slice(0, 4))))
    small = shrunk(network)
    assert shapes(small)["linear1.weight"] == (13, 8)
    assert shapes(small)["self_attn.in_proj_weight"] == (12, 8)


def test_a_number_that_must_be_a_multiple_keeps_some_dead_units() -> None:
    network = captured(ResNeXt(), torch.randn(3, 3, 8, 8))
    group = network.group("stem")
    small = shrunk(zeroed(network, ("reduce.weight", (slice(None), [1, 2])), ("head.weight", slice(None))))
    widths = {found.name: found.width for found in small.groups}
    assert widths.get("stem", 1) % group.multiple_of == 0


class Branches(nn.Module):
    """Additions of all kinds: a branch, a scaled one, one of two paths, in place, and with a factor."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 6)
        self.body, self.norm = nn.Linear(6, 6, bias=False), nn.BatchNorm1d(6)
        self.scaled, self.scale = nn.Linear(6, 6), nn.Parameter(torch.ones(6))
        self.left, self.right = nn.Linear(6, 5), nn.Linear(6, 5)
        self.slow, self.fast = nn.Linear(5, 5), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.norm(F.relu(self.body(x)))
        x = x + self.scale * F.gelu(self.scaled(x))
        x = self.left(x) + torch.tanh(self.right(x))
        x = F.relu(x)
        y = self.slow(x)
        y += self.fast(x)
        return torch.add(x, y, alpha=2)


def branches(*silent: tuple[str, object]) -> Network:
    return zeroed(captured(Branches(), torch.randn(5, 4)), *((name, slice(None)) for name in silent))  # type: ignore[arg-type]


def test_branches_that_add_zero_leave_with_their_operations() -> None:
    network = branches("norm.weight", "norm.bias", "scale")
    found = dead(network)[1]
    assert set(found) == {branch.name for branch in network.branches if branch.parameters[0] != "slow.weight"}
    small = shrunk(network)
    assert {name.partition(".")[0] for name in shapes(small)} == {"stem", "left", "right", "slow", "fast"}
    assert not small.module.graph.find_nodes(op="call_function", target=torch.ops.aten.gelu.default)


@pytest.mark.parametrize(
    ("silent", "gone"),
    [
        (("right.weight", "right.bias"), {"right"}),
        (("left.weight", "left.bias"), {"left"}),
        (("fast.weight", "fast.bias"), {"fast"}),
        (("slow.weight", "slow.bias"), set()),  # the sum is written into its memory
        (("slow.weight", "slow.bias", "fast.weight", "fast.bias"), {"slow", "fast"}),
        (("left.weight", "left.bias", "right.weight", "right.bias"), None),
        (("body.weight",), set()),  # the norm makes constants of it
        (("body.weight", "norm.bias", "norm.weight"), {"body", "norm"}),
    ],
)
def test_an_addition_of_zero_leaves_what_is_added_to(silent: tuple[str, ...], gone: set[str] | None) -> None:
    network = branches(*silent)
    small = shrunk(network)
    left = {name.partition(".")[0] for name in shapes(small)}
    if gone is not None:
        assert {name.partition(".")[0] for name in shapes(network)} - left == gone


def test_what_is_zero_now_and_written_into_later_is_no_zero() -> None:
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.zero, self.other, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.zero(x)
            view = y[:, :2]
            view.add_(self.other(x)[:, :2])
            return self.head(x + y)

    network = captured(Written(), torch.randn(5, 4))
    shrunk(zeroed(network, ("zero.weight", slice(None)), ("zero.bias", slice(None))))


MODELS: list[tuple[Callable[[], nn.Module], tuple[int, ...]]] = [
    (LeNet, (1, 28, 28)),
    (VGG, (3, 16, 16)),
    (lambda: CifarResNet(8, (4, 8, 16), projection=True), (3, 16, 16)),
    (lambda: CifarResNet(8, (4, 8, 16)), (3, 16, 16)),
    (MobileNet, (3, 16, 16)),
    (DenseNet, (3, 16, 16)),
    (ResNeXt, (3, 8, 8)),
    (ConvNet1d, (3, 16)),
    (Autoencoder, (12,)),
    (Recurrent, (4, 5)),
    (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (4, 8)),
]


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(MODELS), st.sampled_from([0.5, 0.9, 0.97, 0.995]), st.booleans(), st.booleans())
def test_random_sparse_networks_compute_the_same(
    case: tuple[Callable[[], nn.Module], tuple[int, ...]], share: float, vectors: bool, whole: bool
) -> None:
    """Single weights are zero, or whole rows and columns; biases and norms too, or not."""
    model, shape = case
    network = captured(model(), torch.randn(2, *shape))
    with torch.no_grad():
        for parameter in network.parameters():
            if vectors or parameter.dim() > 1:
                for dim in range(min(parameter.dim(), 2)) if whole else (None,):
                    size = [parameter.shape[dim] if d == dim else 1 for d in range(parameter.dim())]
                    parameter *= torch.rand(parameter.shape if dim is None else size) > share
    shrunk(network)


def test_several_inputs_outputs_and_shared_weights() -> None:
    network = captured(Shared(), (torch.randn(3, 2, 6, 6), torch.randn(3, 5)))
    zeroed(network, ("mix.weight", (slice(None), [0, 8])), ("shared.weight", (slice(None), [2, 3])))
    small = shrunk(network)
    assert shapes(small)["image.weight"][0] == 5
    assert shapes(small)["shared.weight"] == (8, 8)  # unit 3 goes into the mix
