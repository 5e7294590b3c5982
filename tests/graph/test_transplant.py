"""The cut weights in the user's own class: equal to the network, attributes follow, the model stays as it was."""

import copy
import importlib
import random
from pathlib import Path

import graph_nets
import pytest
import torch
import torch.nn.functional as F
from graph_nets import (
    VGG,
    Autoencoder,
    CifarResNet,
    DenseNet,
    LeNet,
    MobileNet,
    ResNeXt,
    Shared,
    randomize,
)
from torch import Tensor, nn

from trimtab.errors import ConfigError
from trimtab.graph import Network, capture, cut, remove, transplant
from trimtab.plan import Plan
from trimtab.tasks.task import call

IMAGE = torch.randn(3, 3, 16, 16)


class Tokens(nn.Module):
    """Layer and group norm, an embedding, a transposed convolution, PReLU, a cast."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.norm = nn.LayerNorm(8)
        self.up = nn.ConvTranspose1d(8, 6, 2, 2)
        self.act = nn.PReLU(6)
        self.head = nn.Linear(6, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm(self.embed(tokens)).transpose(1, 2)
        return self.head(self.act(self.up(x)).mean(2).float())


def halves(network: Network) -> Network:
    plan = Plan.uniform(network)
    return cut(network, {decision.group: decision.kept for decision in plan.groups})


def untouched(model: nn.Module, before: nn.Module) -> bool:
    same = all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.state_dict().values(), strict=True)
    )
    return same and str(model) == str(before) and model.training == before.training


@pytest.mark.parametrize(
    ("model", "example"),
    [
        (CifarResNet(8, (4, 8, 8), projection=True), IMAGE),
        (MobileNet(), IMAGE),
        (DenseNet(), IMAGE),
        (VGG(), IMAGE),
        (Autoencoder(), torch.randn(3, 12)),
        (Shared(), {"image": torch.randn(3, 2, 6, 6), "vector": torch.randn(3, 5)}),
        (Tokens(), torch.randint(0, 11, (3, 5))),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_copy_equals_the_network_and_the_model_is_untouched(model: nn.Module, example: object) -> None:
    randomize(model)
    before = copy.deepcopy(model)
    network = halves(capture(model, example))
    result = transplant(network, model)
    assert untouched(model, before)
    assert type(result) is type(model)
    assert result.training
    sizes = [sum(p.numel() for p in m.parameters()) for m in (result, model)]
    assert sizes[0] < sizes[1]
    output, expected = call(result.eval(), example), call(network.eval(), example)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)


def test_attributes_and_depthwise_groups_follow() -> None:
    model = MobileNet()
    network = halves(capture(model, IMAGE))
    result = transplant(network, model)
    depthwise = result.blocks[0].body[3]
    width = depthwise.weight.shape[0]
    assert width < model.blocks[0].body[3].out_channels
    assert depthwise.groups == depthwise.in_channels == depthwise.out_channels == width
    assert result.blocks[0].body[4].num_features == width
    assert result.head.in_features == result.head.weight.shape[1]
    rebuilt = nn.Conv2d(width, width, 3, 1, 1, groups=width, bias=False)
    assert str(rebuilt) == str(depthwise)


class Recurrent(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


class Attends(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(width, heads, batch_first=True)
        self.into = nn.Linear(5, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        return self.layer(x, x, x)[0]


@pytest.mark.parametrize(
    ("small", "large", "shape"),
    [
        (nn.Conv1d(3, 4, 3), nn.Conv1d(5, 8, 3), (3, 9)),
        (nn.Conv2d(4, 8, 3, groups=2), nn.Conv2d(8, 12, 3, groups=4), (4, 6, 6)),
        (nn.Conv3d(3, 4, 3), nn.Conv3d(5, 8, 3), (3, 4, 4, 4)),
        (nn.ConvTranspose2d(4, 6, 2, groups=2), nn.ConvTranspose2d(8, 12, 2, groups=4), (4, 6, 6)),
        (nn.GroupNorm(2, 6), nn.GroupNorm(4, 12), (6, 4)),
        (nn.LayerNorm(6), nn.LayerNorm(9), (6,)),
        (nn.RMSNorm(6), nn.RMSNorm(9), (6,)),
        (nn.BatchNorm1d(6, affine=False), nn.BatchNorm1d(9, affine=False), (6,)),
        (nn.InstanceNorm1d(6, affine=True), nn.InstanceNorm1d(9, affine=True), (6, 7)),
        (nn.PReLU(6), nn.PReLU(9), (6,)),
        (
            Recurrent(nn.LSTM(4, 5, 2, batch_first=True, bidirectional=True)),
            Recurrent(nn.LSTM(6, 9, 2, batch_first=True, bidirectional=True)),
            (3, 4),
        ),
        (Recurrent(nn.GRU(4, 5, batch_first=True)), Recurrent(nn.GRU(6, 9, batch_first=True)), (3, 4)),
        (Recurrent(nn.RNN(4, 5, batch_first=True)), Recurrent(nn.RNN(6, 9, batch_first=True)), (3, 4)),
        (
            Recurrent(nn.LSTM(4, 6, batch_first=True, proj_size=3)),
            Recurrent(nn.LSTM(6, 9, batch_first=True, proj_size=5)),
            (3, 4),
        ),
        (Attends(8, 2), Attends(16, 4), (3, 5)),
    ],
    ids=lambda value: type(getattr(value, "layer", value)).__name__,
)
def test_the_attributes_are_those_of_a_module_built_that_small(
    small: nn.Module, large: nn.Module, shape: tuple[int, ...]
) -> None:
    network = capture(randomize(small), torch.randn(3, *shape))
    result = transplant(network, large)
    assert str(result) == str(small)
    plain = [
        {
            name: value
            for name, value in vars(getattr(module, "layer", module)).items()
            if isinstance(value, (int, tuple))
        }
        for module in (result, small)
    ]
    assert plain[0] == plain[1]
    x = torch.randn(4, *shape)
    torch.testing.assert_close(result.eval()(x), small.eval()(x))


@pytest.mark.parametrize("seed", range(4))
def test_random_units(seed: int) -> None:
    draw = random.Random(seed)
    model, example = [(MobileNet(), IMAGE), (DenseNet(), IMAGE), (ResNeXt(), IMAGE[:, :, :8, :8])][seed % 3]
    network = capture(randomize(model), example)
    kept = {}
    for group in network.groups:
        count = draw.randrange(1, group.width // group.multiple_of + 1) * group.multiple_of
        kept[group.name] = draw.sample(range(group.width), count)
    small = cut(network, kept)
    result = transplant(small, model).eval()
    torch.testing.assert_close(result(example), small(example), rtol=1e-4, atol=1e-4)


def test_padding_by_a_constant_is_named_with_its_line() -> None:
    model = CifarResNet(8, (4, 8, 8))
    network = capture(model, IMAGE)
    line = 1 + Path(graph_nets.__file__).read_text().splitlines().index(
        '            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra // 2, self.extra // 2), "constant", 0)'
    )
    with pytest.raises(ConfigError, match=rf"graph_nets.py:{line} in forward: .*size written"):
        transplant(halves(network), model)


def test_a_class_that_casts_is_compared_in_its_own_type() -> None:
    class Casts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(F.relu(self.a(x)).to(torch.float32))

    model = Casts()
    small = halves(capture(model, torch.randn(3, 4)))
    assert transplant(small, model).a.out_features == 4
    with torch.no_grad():
        module = importlib.import_module("trimtab.graph.transplant")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_copied", lambda tensor: nn.Parameter(tensor.detach() * 1.01))
            with pytest.raises(ConfigError, match="differ by"):
                transplant(small, model)


def test_shared_weights_stay_shared_and_can_be_trained() -> None:
    model = Shared()
    example = {"image": torch.randn(3, 2, 6, 6), "vector": torch.randn(3, 5)}
    model.vector.weight.requires_grad_(False)
    result = transplant(halves(capture(model, example)), model)
    assert result.tied.weight is result.out.weight
    call(result, example)["logits"].sum().backward()
    assert result.out.weight.grad is not None
    assert result.vector.weight.grad is None
    assert not set(map(id, result.parameters())) & set(map(id, model.parameters()))


def test_a_size_in_the_code_is_named_with_its_line() -> None:
    model = LeNet()
    network = capture(model, torch.randn(3, 1, 28, 28))
    assert isinstance(transplant(cut(network, {"conv1": [0, 4]}), model), LeNet)
    line = next(
        i
        for i, text in enumerate(Path(graph_nets.__file__).read_text().splitlines(), 1)
        if "x.view(-1, 16 * 4 * 4)" in text
    )
    with pytest.raises(ConfigError, match=rf"graph_nets.py:{line} in forward: .*size written.*Network"):
        transplant(cut(network, {"conv2": list(range(9))}), model)
    # Half of the channels: the view still runs, on half of the rows, and the next layer fails.
    with pytest.raises(ConfigError, match=rf"graph_nets.py:{line} in forward: .*size written"):
        transplant(cut(network, {"conv2": list(range(8))}), model)


def test_a_constant_that_changes_the_values_is_named() -> None:
    class Divides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(F.pad(F.relu(self.a(x))[:, :6], (0, 2)))

    model = Divides()
    network = capture(model, torch.randn(3, 4))
    small = cut(network, {group.name: list(range(group.width // 2)) for group in network.groups})
    with pytest.raises(ConfigError, match=r"test_transplant.py:\d+ in forward"):
        transplant(small, model)


def test_another_class_is_refused() -> None:
    network = capture(LeNet(), torch.randn(3, 1, 28, 28))
    with pytest.raises(ConfigError, match=r"VGG has no parameter 'conv1\.weight'"):
        transplant(network, VGG())


def test_a_wrong_weight_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("trimtab.graph.transplant")
    monkeypatch.setattr(module, "_copied", lambda tensor: nn.Parameter(tensor.detach() + 1e-6))
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(ConfigError, match="differ by"):
        transplant(halves(capture(model, torch.randn(3, 4))), model)


def test_a_removed_branch_is_named() -> None:
    model = CifarResNet(14, (4, 8, 8))
    randomize(model)
    network = capture(model, IMAGE)
    branch = network.branches[0]
    with pytest.raises(ConfigError, match=rf"still has the branch of '{branch.parameters[0]}', which was removed"):
        transplant(remove(network, [branch.name]), model)
