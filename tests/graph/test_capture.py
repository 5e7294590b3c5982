"""Capture: the user's module is untouched, and what cannot be captured is named with its place."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from graph_nets import CifarResNet, LeNet, Shared, randomize
from torch import Tensor, nn

from trimtab.errors import CaptureError, NumericsError, PlanError
from trimtab.graph import capture, cut
from trimtab.tasks.task import call


def test_the_module_is_bit_for_bit_what_it_was() -> None:
    model = randomize(CifarResNet(8, (4, 8, 8)))
    model.train()
    model.layer1.eval()
    model.calls = 0
    flags = {name: module.training for name, module in model.named_modules()}
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    network = capture(model, torch.randn(4, 3, 8, 8))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    assert {name: module.training for name, module in model.named_modules()} == flags
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.calls == 0
    assert list(dict(model.named_parameters())) == list(dict(network.named_parameters()))
    torch.randn(4, 3, 8, 8)  # the only numbers drawn
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    torch.randn(4, 3, 8, 8)
    torch.randn(4, 3, 8, 8)
    assert torch.equal(torch.get_rng_state(), after)


def test_an_attribute_that_forward_sets_is_put_back() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.calls = nn.Linear(3, 4), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.layer(x)

    model = Counts()
    capture(model, torch.randn(2, 3))
    assert model.calls == 0
    assert model.training


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 8])
def test_other_batch_sizes_run(rows: int) -> None:
    model = LeNet().eval()
    network = capture(model, torch.randn(rows, 1, 28, 28))
    assert network.example.shape[0] % 2 == 1
    for n in (1, 2, 5):
        x = torch.randn(n, 1, 28, 28)
        torch.testing.assert_close(network(x), model(x))


def test_train_and_eval_equal_the_module() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.drop = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Dropout(0.5)
            self.batch = nn.BatchNorm2d(5, track_running_stats=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.drop(self.batch(self.norm(self.conv(x))))

    model = Mixed()
    network = capture(model, torch.randn(4, 3, 6, 6)).train()
    assert network.training
    x = torch.randn(6, 3, 6, 6)
    for mode in (True, False, True):
        model.train(mode)
        network.train(mode)
        torch.manual_seed(1)
        expected = model(x)
        torch.manual_seed(1)
        torch.testing.assert_close(network(x), expected, rtol=0, atol=0)
    assert torch.equal(network.module.get_buffer("norm.running_mean"), model.norm.running_mean)
    assert network.clone().training


def test_the_graph_is_recompiled_only_when_a_mode_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    network = capture(nn.Sequential(nn.Linear(3, 4), nn.Dropout()), torch.randn(2, 3))
    calls = []
    recompile = network.module.recompile
    monkeypatch.setattr(network.module, "recompile", lambda: calls.append(recompile()))
    network.eval().eval()
    assert not calls
    network.train().train()
    assert len(calls) == 1


def test_clone_is_independent_and_keeps_the_output_structure() -> None:
    example = {"image": torch.randn(2, 2, 6, 6), "vector": torch.randn(2, 5)}
    network = capture(Shared(), example)
    twin = network.clone()
    before = call(network, example)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    after = call(network, example)
    assert list(after) == ["logits", "more"]
    assert isinstance(after["more"], tuple)
    assert torch.equal(before["logits"], after["logits"])
    assert not torch.equal(call(twin, example)["more"][1][0], after["more"][1][0])
    assert twin.module.get_parameter("out.weight") is twin.module.get_parameter("tied.weight")


def test_shared_weights_stay_shared_after_a_cut() -> None:
    network = capture(Shared(), {"image": torch.randn(2, 2, 6, 6), "vector": torch.randn(2, 5)})
    small = cut(network, {"mix": [0, 3], "vector": [1, 2, 8]})
    assert small.module.get_parameter("out.weight") is small.module.get_parameter("tied.weight")
    assert small.module.get_parameter("tied.weight").shape == (4, 2)
    assert [layer.name for layer in network.layers][:4] == ["image", "vector", "shared", "shared#2"]


def test_requires_grad_is_kept() -> None:
    model = LeNet()
    model.conv2.weight.requires_grad_(False)
    network = capture(model, torch.randn(2, 1, 28, 28))
    small = cut(network, {"conv2": [1, 2]})
    frozen = {name for name, parameter in small.named_parameters() if not parameter.requires_grad}
    assert frozen == {"conv2.weight"}


def test_names_are_looked_up_with_near_matches() -> None:
    network = capture(LeNet(), torch.randn(2, 1, 28, 28))
    with pytest.raises(PlanError, match=r"unknown group 'conv3'; near matches: conv[12]"):
        network.group("conv3")
    with pytest.raises(PlanError, match="unknown layer"):
        network.layer("nothing")
    assert network.layer("conv1").positions == 24 * 24
    assert network.layer("fc1").operator == "linear"


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


class FixedBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        for _ in range(x.shape[0]):
            x = F.relu(x)
        return x


class Crashes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(x.numpy())


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Branches(), ["test_capture.py:", "in forward", "values of a tensor", "torch.where"]),
        (FixedBatch(), ["test_capture.py:", "in forward", "batch size must stay free"]),
        (Crashes(), ["test_capture.py:", "in forward", "numpy"]),
        (nn.Linear(5, 4), ["Linear", "cannot be captured"]),
    ],
)
@pytest.mark.filterwarnings("default")
def test_what_cannot_be_captured_is_named_with_its_place(model: nn.Module, words: list[str]) -> None:
    with pytest.raises(CaptureError) as caught:
        capture(model, torch.randn(3, 4))
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("example", "words"),
    [
        ((torch.randn(2, 4), torch.randn(3, 4)), "the same and not 0"),
        ((torch.randn(2, 4), 3.0), "must be tensors, got Tensor, float"),
        (torch.tensor(1.0), "must be the batch"),
        (torch.randn(0, 4), "not 0"),
        ((), "got nothing"),
    ],
)
def test_examples_that_are_no_batches_are_refused(example: object, words: str) -> None:
    with pytest.raises(CaptureError, match=words):
        capture(nn.Linear(4, 2), example)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["conv1.weight", "bn1.running_var"])
def test_nan_and_infinity_are_named(name: str) -> None:
    model = CifarResNet(8, (4, 4, 4))
    dict(model.state_dict())[name].view(-1)[0] = float("inf")
    with pytest.raises(NumericsError, match=name):
        capture(model, torch.randn(2, 3, 8, 8))


def test_the_fingerprint_ignores_values_and_mode() -> None:
    a, b = capture(LeNet(), torch.randn(2, 1, 28, 28)), capture(LeNet(), torch.randn(5, 1, 28, 28))
    assert a.fingerprint == b.train().fingerprint
    assert a.fingerprint != cut(a, {"conv1": [0, 1]}).fingerprint


def test_no_grad_in_forward_is_captured() -> None:
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = torch.relu(self.a(x))
            return self.b(x)

    model = Partly()
    network = capture(model, torch.randn(2, 3))
    x = torch.randn(5, 3)
    assert torch.equal(network(x), model(x))


class Auxiliary(nn.Module):
    """A second head that only training reads, and a slice that nobody does."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.second = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Any:
        x = torch.relu(self.body(x))
        x[:, ::2].sum()
        return (self.head(x), self.second(x)) if self.training else self.head(x)


def test_what_no_output_depends_on_is_gone() -> None:
    network = capture(Auxiliary(), torch.randn(3, 4))
    assert [name for name, _ in network.named_parameters()] == ["body.weight", "body.bias", "head.weight", "head.bias"]
    assert [(group.name, group.width) for group in network.groups] == [("body", 6)]
