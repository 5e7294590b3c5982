"""Each rule in a tiny network where it matters: expected groups, cut equals masked, and what must freeze."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimtab.graph import Network, capture, cut, verify

C = 6


class Between(nn.Module):
    """[N, 3, 5, 5] → a 3 x 3 convolution to 6 channels → `body` → a layer over what `body` gives → an output."""

    def __init__(self, body: Callable[..., Tensor], extra: nn.Module | None = None, norm: bool = True) -> None:
        super().__init__()
        self.body, self.extra = body, extra
        self.first = nn.Conv2d(3, C, 3, padding=1)
        self.second = nn.Conv2d(3, C, 3, padding=1)
        x = self.run(torch.zeros(3, 3, 5, 5))
        self.last = nn.Linear(x.shape[-1], 4) if x.dim() < 4 else nn.Conv2d(x.shape[1], 4, 1)

    def run(self, x: Tensor) -> Tensor:
        a, b = self.first(x), self.second(x)
        return self.body(self, a, b)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.run(x))


def network(body: Callable[..., Tensor], extra: nn.Module | None = None) -> Network:
    model = Between(body, extra).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-1, 1)
        for name, buffer in model.named_buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5 if "var" in name else -1.0, 1.5)
    return capture(model, torch.randn(3, 3, 5, 5))


def prove(net: Network) -> None:
    for group in net.groups:
        alone = random.sample(range(group.width), max(1, group.width - random.randint(1, group.width - 1)))
        proof = verify(net, {group.name: alone})
        assert proof.exact, (group, proof)
    kept = {g.name: random.sample(range(g.width), random.randint(1, g.width - 1)) for g in net.groups}
    proof = verify(net, kept)
    assert proof.exact, (kept, proof)
    small = cut(net, kept)
    assert {g.name: g.width for g in net.groups}.keys() == kept.keys()
    prove_again = verify(small, {g.name: [g.width - 1] for g in small.groups})
    assert prove_again.exact, prove_again


def widths(net: Network) -> dict[str, int]:
    return {group.name: group.width for group in net.groups}


def write(a: Tensor, b: Tensor) -> Tensor:
    a = a.clone()
    a[:, :2] = b[:, 4:]
    return a


A, B = {"first": 6}, {"second": 6}

FREE: dict[str, tuple[Callable[..., Tensor], dict[str, int]]] = {
    "relu": (lambda m, a, b: F.relu(a), A),
    "in_place": (lambda m, a, b: F.relu_(a).add_(1).mul_(2).clamp_(-1, 5), A),
    "sigmoid": (lambda m, a, b: torch.sigmoid(a), A),
    "softplus_sum": (lambda m, a, b: F.softplus(a) + F.hardsigmoid(b), A),
    "clamp": (lambda m, a, b: a.clamp(0.1, 0.5), A),
    "hardtanh": (lambda m, a, b: F.hardtanh(a, -0.5, 0.25), A),
    "elu_celu": (lambda m, a, b: F.celu(F.elu(a)), A),
    "threshold": (lambda m, a, b: F.threshold(a, 0.1, 3.0), A),
    "leaky": (lambda m, a, b: F.leaky_relu(a, 0.3) + F.mish(a), A),
    "pow": (lambda m, a, b: a**2 + b.square().sqrt(), A),
    "scalars": (lambda m, a, b: 1 - 2 * a / 3 + (b - 1), A),
    "product": (lambda m, a, b: a * b, A),
    "maximum": (lambda m, a, b: torch.maximum(a, b), A),
    "where": (lambda m, a, b: torch.where(a > 0, a, b), A),
    "masked_fill": (lambda m, a, b: a.masked_fill(b > 0, 2.0), A),
    "gate": (lambda m, a, b: a * torch.sigmoid(b.mean((2, 3), keepdim=True)), A),
    "outer": (lambda m, a, b: (a.mean((2, 3)).unsqueeze(2) * b.flatten(2).mean(2).unsqueeze(1)).flatten(1), A | B),
    "max_pool": (lambda m, a, b: F.max_pool2d(a, 2), A),
    "avg_pool": (lambda m, a, b: F.avg_pool2d(a, 3, 1, 1), A),
    "adaptive": (lambda m, a, b: F.adaptive_avg_pool2d(a, (2, 1)), A),
    "max_pool_indices": (lambda m, a, b: F.max_pool2d(a, 2, return_indices=True)[0], A),
    "upsample": (lambda m, a, b: F.interpolate(a, scale_factor=2, mode="nearest"), A),
    "flatten": (lambda m, a, b: a.flatten(1), A),
    "view": (lambda m, a, b: a.view(-1, 150), A),
    "view_two": (lambda m, a, b: a.view(a.size(0), 6, 25).mean(2), A),
    "view_batch": (lambda m, a, b: a.reshape(a.shape[0] * 6, 25).reshape(a.shape[0], 6, 25).sum(-1), A),
    "reshape_as": (lambda m, a, b: a.reshape_as(b) + b, A),
    "unflatten": (lambda m, a, b: a.unflatten(1, (2, 3)).sum(1).mean((2, 3)), {"first/0": 2, "first/1": 3}),
    "permute": (lambda m, a, b: a.permute(0, 2, 3, 1).flatten(1), A),
    "transpose": (lambda m, a, b: a.transpose(1, 3).transpose(-3, -1).contiguous(), A),
    "squeeze": (lambda m, a, b: F.adaptive_avg_pool2d(a, 1).squeeze(3).squeeze(-1), A),
    "squeeze_all": (lambda m, a, b: F.adaptive_avg_pool2d(a, 1).squeeze(), A),
    "unsqueeze": (lambda m, a, b: a.unsqueeze(1).squeeze(1), A),
    "expand": (lambda m, a, b: a + b.mean((2, 3), keepdim=True).expand(-1, 6, 5, 5), A),
    "expand_as": (lambda m, a, b: a[:, :1].expand_as(b) * b, {"second": 6, "first[1:6]": 5}),
    "cat": (lambda m, a, b: torch.cat([a, b, a], 1), A | B),
    "cat_space": (lambda m, a, b: torch.cat([a, b], 2), A),
    "stack": (lambda m, a, b: torch.stack([a, b], 1).sum(1), A),
    "stack_flat": (lambda m, a, b: torch.stack([a, b], 2).flatten(1, 2), A),
    "pad_channels": (lambda m, a, b: F.pad(a, (0, 0, 0, 0, 1, 2)), A),
    "pad_space": (lambda m, a, b: F.pad(a, (1, 0, 2, 1), value=3.0), A),
    "pad_reflect": (lambda m, a, b: F.pad(a, (1, 1, 2, 2), mode="reflect"), A),
    "pad_ones": (lambda m, a, b: F.pad(a, (0, 0, 0, 0, 0, 2), value=1.0), A),
    "slice": (lambda m, a, b: a[:, 1:4], {"first[1:4]": 3, "first[4:6]": 2}),
    "slice_negative": (lambda m, a, b: a[:, -4:-1], {"first[0:2]": 2, "first[2:5]": 3}),
    "slice_add": (lambda m, a, b: a[:, :3] + b[:, 3:], {"first[0:3]": 3, "first[3:6]": 3, "second[0:3]": 3}),
    "slice_of_cat": (lambda m, a, b: torch.cat([a, b], 1)[:, 6:] * a, A),
    "narrow": (lambda m, a, b: a.narrow(1, 2, 3), {"first[0:2]": 2, "first[2:5]": 3}),
    "strided_space": (lambda m, a, b: a[:, :, ::2, 1::2], A),
    "select": (lambda m, a, b: a * b[:, 2].unsqueeze(1), {"first": 6, "second[0:2]": 2, "second[3:6]": 3}),
    "select_space": (lambda m, a, b: a[:, :, 1, -1], A),
    "chunk": (lambda m, a, b: torch.cat(a.chunk(2, 1)[::-1], 1), {"first[0:3]": 3, "first[3:6]": 3}),
    "chunk_glu": (lambda m, a, b: a.chunk(2, 1)[0] * torch.sigmoid(a.chunk(2, 1)[1]), {"first[0:3]": 3}),
    "split": (lambda m, a, b: a.split([2, 4], 1)[1] * b[:, :4], {"first[0:2]": 2, "first[2:6]": 4, "second[4:6]": 2}),
    "split_size": (lambda m, a, b: torch.cat(a.split(4, 1), 1), {"first[0:4]": 4, "first[4:6]": 2}),
    "mean_channels": (lambda m, a, b: a * b.mean(1, keepdim=True), A | B),
    "mean_all": (lambda m, a, b: a * torch.tanh(b).mean(), A),
    "mean_space": (lambda m, a, b: a.mean([-1, -2]), A),
    "sum_channels": (lambda m, a, b: a * F.relu(b).sum(1, keepdim=True), A | B),
    "max_space": (lambda m, a, b: a.amax((2, 3)) + a.flatten(2).max(2)[0], A),
    "softmax_space": (lambda m, a, b: (a.flatten(2).softmax(-1) @ b.flatten(2).transpose(1, 2)).flatten(1), A | B),
    "matmul_channels": (lambda m, a, b: a.flatten(2).transpose(1, 2) @ b.flatten(2), A),
    "zeros": (lambda m, a, b: torch.cat([a, torch.zeros_like(b)], 1), A),
    "new_zeros": (lambda m, a, b: a + a.new_zeros(6, 1, 1), A),
    "ones": (lambda m, a, b: a * torch.ones(6, 1, 1) + b, A),
    "cast": (lambda m, a, b: a.to(torch.float32).double().float(), A),
    "clone": (lambda m, a, b: a.clone().detach().contiguous(), A),
    "divide_constant": (lambda m, a, b: a / (1 + torch.exp(b)), A),
    "copy": (lambda m, a, b: a.clone().copy_(b) + a, A),
    "copy_slice": (lambda m, a, b: write(a, b), {"first[0:2]": 2, "first[2:6]": 4, "second[0:4]": 4}),
}


@pytest.mark.parametrize("name", FREE)
def test_rule(name: str) -> None:
    body, expected = FREE[name]
    net = network(body)
    found = widths(net)
    assert found.items() >= expected.items(), (found, net.frozen)
    assert all(group.exact for group in net.groups), net.groups
    prove(net)


FROZEN: dict[str, tuple[Callable[..., Tensor], str]] = {
    "max": (lambda m, a, b: a * a.amax(1, keepdim=True), "depends on every position"),
    "cumsum": (lambda m, a, b: torch.sigmoid(a).cumsum(1), "depend on one another"),
    "flip": (lambda m, a, b: a.flip(1), "change places"),
    "roll": (lambda m, a, b: a.roll(1, 1), "change places"),
    "strided": (lambda m, a, b: a[:, :5:2], "every so many"),
    "divide": (lambda m, a, b: b / a.abs(), "divide by zero"),
    "log": (lambda m, a, b: torch.log(a.abs()), "divide by zero"),
    "over_space": (lambda m, a, b: m.extra(a.permute(0, 2, 1, 3)), "slides along"),
    "unbind": (lambda m, a, b: sum(a.unbind(1)).unsqueeze(1), "separate ways"),
    "reflect": (lambda m, a, b: F.pad(a.permute(0, 2, 3, 1), (1, 1, 0, 0), mode="reflect"), "padding copies"),
}


@pytest.mark.parametrize("name", FROZEN)
def test_what_cannot_be_cut_says_why(name: str) -> None:
    body, reason = FROZEN[name]
    net = network(body, nn.Conv2d(5, 5, 3, padding=1))
    assert "first" not in widths(net)
    found = next(frozen for frozen in net.frozen if frozen.name == "first")
    assert reason in found.reason
    assert found.source.startswith("test_rules.py:")
    assert found.width == C
    prove(net)


def test_a_sum_over_what_is_not_zero_is_inexact() -> None:
    net = network(lambda m, a, b: a * torch.sigmoid(b).mean(1, keepdim=True))
    assert widths(net) == {"first": 6, "second": 6}
    assert net.group("first").exact
    group = net.group("second")
    assert not group.exact
    assert "not zero" in group.reason
    assert "test_rules.py:" in group.reason
    proof = verify(net, {"second": [0, 3]})
    assert not proof.exact
    assert proof.max_abs_diff > 1e-3


def test_an_in_place_operator_on_a_view_is_seen_by_the_whole() -> None:
    def body(_: nn.Module, a: Tensor, b: Tensor) -> Tensor:
        b[:, :, :2].add_(1)
        return a * b.sum(1, keepdim=True)

    assert not network(body).group("second").exact


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.BatchNorm2d(C), {"first": 6}),
        (nn.BatchNorm2d(C, affine=False), {"first": 6}),
        (nn.PReLU(C), {"first": 6}),
        (nn.PReLU(1), {"first": 6}),
        (nn.Conv2d(C, C, 3, groups=C), {"first": 6}),
        (nn.Conv2d(C, 2 * C, 3, groups=C, padding="same"), {"first": 6, "extra/1": 2}),
        (nn.Conv2d(C, 9, 1, groups=3), {"first/0": 3, "first/1": 2, "extra/1": 3}),
        (nn.Conv2d(C, 8, (3, 1), stride=(2, 1), dilation=(1, 2), padding="valid"), {"first": 6}),
        (nn.Dropout2d(), {"first": 6}),
        (nn.AlphaDropout(), {"first": 6}),
    ],
    ids=str,
)
def test_layer(layer: nn.Module, expected: dict[str, int]) -> None:
    net = network(lambda m, a, b: m.extra(a), layer)
    assert widths(net).items() >= expected.items()
    prove(net)


def test_a_one_wide_convolution_passes_its_spatial_axis_on() -> None:
    net = network(lambda m, a, b: m.extra(a.flatten(2).transpose(1, 2)), nn.Conv1d(25, 7, 1, bias=False))
    assert widths(net) == {"first": 6, "extra": 7} or "first" in widths(net)
    prove(net)


def test_a_parameter_that_is_added_or_multiplied_goes_along() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.randn(C, 1, 1))
            self.shift = nn.Parameter(torch.randn(1, C, 1, 1))
            self.register_buffer("unit", torch.rand(C, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return (x * self.gain + self.shift) * self.unit

    net = network(lambda m, a, b: m.extra(a), Scale())
    members = {(member.parameter, member.dim): member.role for member in net.group("first").members}
    assert members[("first.weight", 0)] == members[("first.bias", 0)] == "out"
    assert members[("last.weight", 1)] == "in"
    assert members[("extra.gain", 0)] == "scale"
    assert members[("extra.unit", 0)] == "buffer"
    prove(net)


def test_an_elementwise_module_in_the_graph_passes_its_axes_on() -> None:
    class Half(nn.Module):
        elementwise = True

        def forward(self, x: Tensor, *, scale: float = 0.5) -> Tensor:
            return x * scale

    net = network(lambda m, a, b: F.relu(a) + b)
    before = widths(net)
    net.module.add_submodule("fake", Half())
    for node in list(net.module.graph.nodes):
        if (node.op == "call_function" and "relu" in str(node.target)) or node.name in {"first_weight", "last_weight"}:
            with net.module.graph.inserting_after(node):
                inserted = net.module.graph.call_module("fake", (node,))
            node.replace_all_uses_with(inserted, delete_user_cb=lambda user, inserted=inserted: user is not inserted)
    net.module.recompile()
    net.refresh()
    assert widths(net) == before
    assert [layer.weight for layer in net.layers] == ["first.weight", "second.weight", "last.weight"]
    prove(net)


def test_an_operator_whose_rule_raises_freezes_with_its_message() -> None:
    net = network(lambda m, a, b: a.reshape(-1, 10, 15).sum(2))
    frozen = next(frozen for frozen in net.frozen if frozen.name == "first")
    assert frozen.operator.startswith("aten.")
    assert "across" in frozen.reason or "multiple" in frozen.reason


def test_embedding_width_is_a_group() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.out = nn.Embedding(11, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.tanh(self.table(x)).mean(1))

    net = capture(Words(), torch.randint(0, 11, (4, 5)))
    assert widths(net) == {"table": 8}
    prove(net)


def test_plain_matrix_products() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.randn(5, 7)), nn.Parameter(torch.randn(7, 9))
            self.bias, self.c = nn.Parameter(torch.randn(9)), nn.Parameter(torch.randn(4, 9))

        def forward(self, x: Tensor) -> Tensor:
            return torch.addmm(self.bias, torch.relu(torch.mm(x, self.a)), self.b) @ self.c.t()

    net: Any = capture(Plain(), torch.randn(3, 5))
    assert widths(net) == {"a": 7, "b": 9}
    assert {m.parameter: m.role for m in net.group("b").members} == {"b": "out", "bias": "out", "c": "in"}
    prove(net)
