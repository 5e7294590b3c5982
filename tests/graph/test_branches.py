"""Residual branches are found, and no others; without them a network computes what it does when left out by hand."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from branch_nets import Block, Bottleneck, Mlp, Nested, ResNet, ScaledBlock, Stack, Transformer, Unet
from graph_nets import CifarResNet, DenseNet, MobileNet
from graph_proofs import randomized
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from trimtab.errors import PlanError
from trimtab.graph import Network, capture, cut, load, remove, verify

IMAGES = torch.randn(3, 3, 8, 8)
WORDS = torch.randn(3, 5, 3)
ROWS = torch.randn(3, 4)


def of(model: nn.Module, example: Any) -> Network:
    return capture(randomized(model), example)


def names(network: Network) -> list[str]:
    return [branch.name for branch in network.branches]


def lean(network: Network, model: nn.Module, example: Any) -> None:
    """The network computes what the model does, by no more operators, and holds no parameter that they do not need."""
    assert torch.equal(network(example), model.eval()(example))
    by_hand = capture(model, example).module.graph
    by_hand.eliminate_dead_code()
    calls = [str(node.target) for node in network.module.graph.nodes if node.op == "call_function"]
    assert calls == [str(node.target) for node in by_hand.nodes if node.op == "call_function"]
    held = {name for name, _ in network.named_parameters()}
    assert held == {str(node.target) for node in by_hand.nodes if node.op == "get_attr"} & set(
        dict(model.named_parameters())
    )


@pytest.mark.parametrize(
    ("model", "example", "expected"),
    [
        (
            lambda: CifarResNet(8, (4, 6, 8)),
            IMAGES,
            ["layer1.0"],  # a padded shortcut is no identity
        ),
        (lambda: CifarResNet(8, (4, 6, 8), projection=True), IMAGES, ["layer1.0"]),
        (ResNet, IMAGES, ["layer1.1", "layer1.2", "layer2.1"]),
        (MobileNet, torch.randn(3, 3, 16, 16), ["blocks.0.body", "blocks.3.body"]),
        (lambda: Transformer("pre"), WORDS, ["blocks.0", "blocks.0#2", "blocks.1", "blocks.1#2"]),
        (
            lambda: Transformer("post"),
            WORDS,
            ["blocks.0.attention", "blocks.0.mlp", "blocks.1.attention", "blocks.1.mlp"],
        ),
        (
            lambda: Transformer("parallel"),
            WORDS,
            ["blocks.0.attention", "blocks.0.mlp", "blocks.1.attention", "blocks.1.mlp"],
        ),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 1), ScaledBlock(4), ScaledBlock(4)), IMAGES, ["1", "2"]),
        (lambda: Stack(Nested(6, 3)), ROWS, ["blocks.0.inner.inner", "blocks.0.inner", "blocks.0"]),
        (DenseNet, IMAGES, []),
        (Unet, IMAGES, []),
    ],
)
def test_the_branches_of_known_networks(model: Callable[[], nn.Module], example: Any, expected: list[str]) -> None:
    network = of(model(), example)
    assert names(network) == expected
    assert verify(network, {}, expected[-1:]).exact
    assert verify(network, {}, expected).max_abs_diff == 0


def test_what_a_branch_says_of_itself() -> None:
    network = of(Stack(Nested(6, 3), Mlp(6, 5)), ROWS)
    inner, middle, outer = network.branches
    assert outer.inside == (inner.name, middle.name)
    assert middle.inside == (inner.name,)
    assert inner.layers == ("blocks.0.inner.inner.into", "blocks.0.inner.inner.out")
    assert set(outer.layers) == {layer.name for layer in network.layers if layer.name.startswith("blocks.0.")}
    assert inner.parameter_count == 2 * (6 * 6 + 6)
    assert outer.parameter_count == 3 * inner.parameter_count
    assert set(inner.parameters) == {
        f"blocks.0.inner.inner.{n}.{p}" for n in ("into", "out") for p in ("weight", "bias")
    }
    assert network.branch("blocks.0") is outer
    with pytest.raises(PlanError, match=r"unknown branch 'blocks\.1'; near matches: blocks\.0"):
        network.branch("blocks.1")
    with pytest.raises(PlanError, match="unknown branch 'x'"):
        remove(network, ["x"])


class Rectified(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu_(x.clone())


def test_a_removed_bottleneck_is_an_identity() -> None:
    model = ResNet()
    network = of(model, IMAGES)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    code = network.module.code
    small = remove(network, ["layer1.2", "layer2.1"])
    assert names(small) == ["layer1.1"]
    model.layer1[2] = model.layer2[1] = Rectified()
    lean(small, model, IMAGES)
    assert "layer2.1" not in dict(small.module.named_modules())
    assert set(small.state_dict()) == {name for name in model.state_dict() if not name.endswith("batches_tracked")}
    assert network.module.code == code
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("style", ["pre", "post", "parallel"])
def test_transformers_without_some_branches(style: str) -> None:
    model = Transformer(style)
    network = of(model, WORDS)
    first, _, third, fourth = names(network)
    model.blocks[0].gone, model.blocks[1].gone = frozenset({"attention"}), frozenset({"attention", "mlp"})
    lean(remove(network, [third, first, fourth]), model, WORDS)
    assert torch.equal(remove(remove(network, [first]), [third, fourth])(WORDS), model(WORDS))


def test_all_branches_and_nested_ones() -> None:
    model = Stack(Nested(6, 2), Nested(6, 1), width=6)
    network = of(model, ROWS)
    assert len(names(network)) == 3
    inner, *_ = names(network)
    small = remove(network, [inner])
    model.blocks[0].inner.gone = True
    lean(small, model, ROWS)
    model.blocks[0].gone = model.blocks[1].gone = True
    nothing = remove(network, names(network))
    lean(nothing, model, ROWS)
    assert nothing.branches == ()
    assert [layer.name for layer in nothing.layers] == ["stem", "head"]


class Shares(nn.Module):
    """`shared` is used by two branches; `mixed` has a weight of its own and one of the head's."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.mixed, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.shared(x)
        x = x + F.linear(self.mixed(x), self.head.weight)
        return self.head(x + self.shared(torch.relu(x)))


def test_a_shared_parameter_is_nobodys_own() -> None:
    model = Shares()
    network = of(model, ROWS)
    assert names(network) == ["mixed"]
    assert network.branch("mixed").parameters == ("mixed.weight", "mixed.bias")
    small = remove(network, ["mixed"])
    assert {name for name, _ in small.named_parameters()} == {
        "shared.weight",
        "shared.bias",
        "head.weight",
        "head.bias",
    }
    x = ROWS + model.shared(ROWS)
    assert torch.equal(small(ROWS), model.head(x + model.shared(torch.relu(x))))


class Forward(nn.Module):
    """Two layers and what happens between them."""

    def __init__(self, function: Callable[["Forward", Tensor], Any]) -> None:
        super().__init__()
        self.function = function
        self.stem, self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, self.stem(x))


def double_use(m: Forward, x: Tensor) -> Tensor:
    y = m.a(x)
    return (x + y) * y.sum(1, keepdim=True)


def writes_the_skip(m: Forward, x: Tensor) -> Tensor:
    return x + m.a(torch.tanh_(x.view(-1, 2, 3)).view(-1, 6))


def writes_outside(m: Forward, x: Tensor) -> Tensor:
    skip = torch.relu(x)
    return skip + m.a(skip + x.view(-1, 2, 3).mul_(2).view(-1, 6))


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda m, x: F.dropout(x, 0.5, m.training) + m.a(x), ["a"]),
        (lambda m, x: x.clone() + m.a(x).mul(0.5), ["a"]),
        (lambda m, x: torch.add(m.a(x), x.float(), alpha=1), ["a"]),
        (lambda m, x: torch.add(x, m.a(x), alpha=3), ["a"]),
        (lambda m, x: torch.add(m.a(x), x, alpha=3), []),
        (lambda m, x: x + m.b(torch.relu_(m.a(x))), ["add"]),
        (lambda m, x: m.a(x) + m.b(x), []),
        (lambda m, x: x + m.a(x) + m.b(x), ["a", "b"]),
        (lambda m, x: (x + m.a(x)) + (x + m.b(x)), ["a", "b"]),
        (lambda m, x: x + m.a(x).mean(0, keepdim=True), []),
        (lambda m, x: x.double() + m.a(x), []),
        (lambda m, x: x + x.relu(), []),
        (lambda m, x: x + m.a.weight.mean() * torch.ones_like(x), ["a"]),
        (double_use, []),
        (writes_the_skip, ["a"]),
        (writes_outside, []),
    ],
)
def test_what_is_a_branch_and_what_is_none(function: Callable[..., Tensor], expected: list[str]) -> None:
    network = of(Forward(function), ROWS)
    assert names(network) == expected
    assert verify(network, {}, expected).max_abs_diff == 0


def written_later(m: Forward, x: Tensor, a: Tensor | None) -> tuple[Tensor, Tensor]:
    y = x if a is None else x + a
    z = torch.relu_(y.clone() if a is None else y)
    return m.b(z), x


def skip_written_later(m: Forward, x: Tensor, a: Tensor | None) -> tuple[Tensor, Tensor]:
    y = x.clone() if a is None else x + a
    z = torch.relu_(x)
    return m.b(y), z


def written_in_place(m: Forward, x: Tensor, a: Tensor | None) -> tuple[Tensor, Tensor]:
    kept = x.view(-1, 2, 3)
    if a is not None:
        x += a
    return m.b(x), kept


def written_by_a_part(m: Forward, x: Tensor, a: Tensor | None) -> tuple[Tensor, Tensor]:
    y = torch.tanh(x)
    y[:, 1:4] += 1
    if a is not None:
        y = y + a
    y[:, 2:] *= 2
    return m.b(y), x


@pytest.mark.parametrize("function", [written_later, skip_written_later, written_in_place, written_by_a_part])
def test_what_is_written_in_place_stays_right(function: Callable[..., tuple[Tensor, Tensor]]) -> None:
    model = Forward(lambda m, x: function(m, x, m.a(x)))
    network = of(model, ROWS)
    expected = [] if function is written_by_a_part else ["a"]
    assert names(network) == expected
    small = remove(network, expected)
    model.function = lambda m, x: function(m, x, None if expected else m.a(x))
    for ours, theirs in zip(small(ROWS), model(ROWS), strict=True):
        assert torch.equal(ours, theirs)
    assert verify(network, {}, expected).max_abs_diff == 0
    given = ROWS.clone()
    small(given)
    assert torch.equal(given, ROWS)


def test_the_callers_inputs_are_not_written() -> None:
    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu_(x + self.a(x))

    network = of(First(), ROWS)
    small = remove(network, ["a"])
    given = ROWS.clone()
    assert torch.equal(small(given), F.relu(ROWS))
    assert torch.equal(given, ROWS)


def test_a_constant_that_a_branch_fills_goes_with_it() -> None:
    def masked(m: Forward, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        mask = y.new_zeros(6)
        mask[2:4] = 1
        return x + m.a(y) * mask

    network = of(Forward(masked), ROWS)
    small = remove(network, ["a"])
    assert [node.target for node in small.module.graph.nodes if node.op == "call_function"] == [
        torch.ops.aten.linear.default
    ]


def test_cut_and_removed_together() -> None:
    model = ResNet()
    network = of(model, IMAGES)
    kept = {group.name: range(0, group.width, 2) for group in network.groups if group.width > 1}
    assert "layer1.1.conv1" in kept  # of a removed branch: harmless
    assert verify(network, kept, ["layer1.1", "layer2.1"]).exact
    assert verify(network, kept, names(network)).exact
    small = remove(cut(network, kept), ["layer1.1", "layer2.1"])
    small.train()(torch.randn(64, 3, 8, 8)).square().mean().backward()
    gradients = [p.grad for p in small.parameters()]
    assert all(gradient is not None for gradient in gradients)
    moved = sum(bool(gradient.any()) for gradient in gradients)
    assert moved > 0.5 * len(gradients)  # a bottleneck of few channels may be dead by chance


def test_a_norm_that_only_a_removed_branch_reads_does_not_make_the_proof_inexact() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.norm, self.out = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 6)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.out(self.norm(self.into(x)))

    network = of(Stack(Normed()), ROWS)
    kept = {"blocks.0.into": [0, 3, 4]}
    assert not verify(network, kept).exact
    assert verify(network, kept, ["blocks.0"]).exact


def test_verify_sees_a_wrong_removal(monkeypatch: pytest.MonkeyPatch) -> None:
    network = of(ResNet(), IMAGES)
    module = importlib.import_module("trimtab.graph.verify")
    monkeypatch.setattr(module, "without", lambda network, branches: network)
    proof = verify(network, {}, ["layer1.1"])
    assert not proof.exact
    assert "differ" in proof.reason


def test_a_network_without_branches_is_saved_trained_and_analysed(tmp_path: Path) -> None:
    network = of(Transformer("pre"), WORDS)
    small = remove(network, ["blocks.0#2", "blocks.1"]).train()
    assert small.training
    assert small.fingerprint != network.fingerprint
    small(WORDS).square().mean().backward()
    small.eval()
    small.save(tmp_path / "small.safetensors")
    again = load(tmp_path / "small.safetensors")
    assert again.fingerprint == small.fingerprint
    assert torch.equal(again(WORDS), small(WORDS))
    assert names(again) == names(small) == ["blocks.0", "blocks.1"]
    assert verify(small, {group.name: range(group.width // 2) for group in small.groups}).max_abs_diff < 1e-9


def blocks() -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, 4), min_size=1, max_size=4)


@settings(max_examples=6, deadline=None)
@given(blocks(), st.data())
def test_any_subset_of_any_stack(kinds: list[int], data: st.DataObject) -> None:
    kind = [
        lambda: Nested(8, 2),
        lambda: Block("pre"),
        lambda: Block("post"),
        lambda: Block("parallel"),
        lambda: Mlp(8, 4),
    ]
    model = Stack(*(kind[k]() for k in kinds), width=8)
    example = torch.randn(3, 5, 4)
    network = of(model, example)
    assert len(network.branches) == sum(2 for k in kinds if k < 4)
    chosen = data.draw(st.sets(st.sampled_from(names(network)))) if network.branches else set()
    for name in chosen:
        inside = network.branch(name).layers[0].split(".")
        block = model.blocks[int(inside[1])]
        if isinstance(block, Nested):
            (block.inner if name.endswith("inner") else block).gone = True
        else:
            assert isinstance(block, Block)
            block.gone |= {inside[2]}
    small = remove(network, chosen)
    torch.testing.assert_close(small(example), model(example), rtol=0, atol=0)
    left = [branch.layers for branch in network.branches if not hidden(network, branch.name, chosen)]
    assert [branch.layers for branch in small.branches] == [
        tuple(layer for layer in layers if layer in {found.name for found in small.layers}) for layers in left
    ]
    assert verify(network, {}, sorted(chosen)).max_abs_diff == 0


def hidden(network: Network, name: str, gone: set[str]) -> bool:
    return name in gone or any(name in network.branch(outer).inside for outer in gone)


def test_the_bottleneck_by_hand_is_what_it_says() -> None:
    block = randomized(Bottleneck(8, 4))
    x = torch.rand(2, 8, 4, 4)
    whole = block(x)
    block.gone = True
    assert torch.equal(block(x), x)
    assert not torch.equal(whole, x)
