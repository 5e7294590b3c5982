"""Attention and the networks made of it: heads, head widths and MLP widths are groups of their own."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from graph_proofs import captured, prove, widths
from torch import Tensor, nn

from trimtab.graph import cut

D, H, T = 16, 4, 6  # stream, heads, tokens


def heads(x: Tensor, n: int) -> Tensor:
    """[N, T, n·d] to [N, n, T, d]."""
    return x.view(x.shape[0], x.shape[1], n, -1).transpose(1, 2)


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(q.size(-1)), -1) @ v


def batched(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    n = q.shape[0]
    a, b, c = (t.flatten(0, 1) for t in (q, k, v))
    scores = torch.baddbmm(torch.zeros(1, 1, T), a, b.transpose(1, 2), alpha=0.5)
    return torch.bmm(scores.softmax(-1), c).view(n, -1, T, c.shape[-1])


def masked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (q * 0.25) @ k.mT
    return scores.masked_fill(torch.ones(T, T).triu(1).bool(), float("-inf")).softmax(-1) @ v


def written_as_sums(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.einsum("bhij, bhjd -> bhid", torch.einsum("bhid,bhjd->bhij", q, k).softmax(-1), v)


def turned(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Queries and keys as interleaved pairs, turned by the position."""
    angles = torch.arange(T)[:, None] / torch.tensor([1.0, 7.0])

    def turn(x: Tensor) -> Tensor:
        a, b = x[..., ::2], x[..., 1::2]
        return torch.stack((a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos()), -1).flatten(-2)

    return plain(turn(q), turn(k), v)


def with_where(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    allowed = torch.tril(torch.ones(T, T, dtype=torch.bool))
    return torch.where(allowed, q @ k.transpose(2, 3), torch.tensor(-1e4)).softmax(-1) @ v


ATTENTIONS: dict[str, Callable[..., Tensor]] = {
    "sdpa": F.scaled_dot_product_attention,
    "sdpa_causal": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    "sdpa_scaled": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=0.7),
    "sdpa_mask": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, torch.ones(T, T).tril().bool()),
    "sdpa_bias": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, torch.linspace(0, 1, T).view(1, 1, 1, T)),
    "plain": plain,
    "batched": batched,
    "masked": masked,
    "where": with_where,
    "einsum": written_as_sums,
    "interleaved": turned,
}


class SelfAttention(nn.Module):
    """Separate projections for queries, keys and values, as in BERT."""

    def __init__(self, attend: Callable[..., Tensor]) -> None:
        super().__init__()
        self.attend = attend
        self.q, self.k, self.v, self.o = (nn.Linear(D, D) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.attend(heads(self.q(x), H), heads(self.k(x), H), heads(self.v(x), H))
        return self.o(y.transpose(1, 2).reshape(x.shape[0], -1, D))


@pytest.mark.parametrize("name", ATTENTIONS)
def test_heads_and_their_widths(name: str) -> None:
    net = captured(SelfAttention(ATTENTIONS[name]), torch.randn(3, T, D))
    pairs = 2 if name == "interleaved" else 4
    assert widths(net) == widths(net, exact=True) == {"q/0": 4, "q/1": pairs, "v/1": 4}, net.frozen
    members = {(m.parameter, m.dim) for m in net.group("q/0").members}
    assert {(f"{name}.weight", 0) for name in "qkv"} | {("o.weight", 1)} <= members
    prove(net)


def test_the_default_scale_is_pinned_once() -> None:
    net = captured(SelfAttention(F.scaled_dot_product_attention), torch.randn(3, T, D))
    operator = torch.ops.aten.scaled_dot_product_attention.default
    small = cut(cut(net, {"q/1": [0, 2]}), {"q/1": [1]})
    [node] = small.module.graph.find_nodes(op="call_function", target=operator)
    assert node.kwargs["scale"] == 0.5
    [node] = cut(net, {"v/1": [0]}).module.graph.find_nodes(op="call_function", target=operator)
    assert node.kwargs.get("scale") is None


class Fused(nn.Module):
    """One projection of 3·H·d, taken apart in one of several ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.qkv, self.o = how, nn.Linear(D, 3 * D, bias=False), nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        n, y = x.shape[0], self.qkv(x)
        match self.how:
            case "split":
                q, k, v = (heads(part, H) for part in y.split(D, dim=2))
            case "chunk":
                q, k, v = (heads(part, H) for part in y.chunk(3, -1))
            case "unbind":
                q, k, v = y.reshape(n, T, 3, H, D // H).permute(2, 0, 3, 1, 4).unbind(0)
            case "select":
                y = y.reshape(n, T, 3, H, D // H).permute(2, 0, 3, 1, 4)
                q, k, v = y[0], y[1], y[2]
            case "per_head":
                q, k, v = y.view(n, T, H, 3 * D // H).transpose(1, 2).split(D // H, -1)
            case "split_view":
                q, k, v = y.unflatten(-1, (3, D)).unsqueeze(0).transpose(0, -2).squeeze(-2)
                q, k, v = heads(q, H), heads(k, H), heads(v, H)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(y.transpose(1, 2).contiguous().view(n, T, D))


FUSED = {
    "split": {"qkv[0:16]/0": 4, "qkv[0:16]/1": 4, "qkv[32:48]/1": 4},
    "chunk": {"qkv[0:16]/0": 4, "qkv[0:16]/1": 4, "qkv[32:48]/1": 4},
    "unbind": {"qkv/1": 4, "qkv/2": 4},
    "select": None,
    "per_head": None,
    "split_view": {"qkv/1": 4, "qkv/2": 4},
}


@pytest.mark.parametrize("name", FUSED)
def test_fused_projections(name: str) -> None:
    net = captured(Fused(name), torch.randn(3, T, D))
    assert all(group.exact for group in net.groups)
    assert FUSED[name] is None or widths(net) == FUSED[name]
    assert sorted(widths(net).values()) in ([4, 4], [4, 4, 4]), widths(net)
    prove(net)


class Grouped(nn.Module):
    """Four query heads over two key heads, repeated in one of several ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.q, self.o = how, nn.Linear(D, D), nn.Linear(D, D)
        self.k, self.v = nn.Linear(D, D // 2), nn.Linear(D, D // 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = heads(self.q(x), H), heads(self.k(x), 2), heads(self.v(x), 2)
        match self.how:
            case "sdpa":
                y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
            case "expand":
                k, v = (t[:, :, None].expand(-1, -1, 2, -1, -1).reshape(-1, H, T, 4) for t in (k, v))
                y = F.scaled_dot_product_attention(q, k, v)
            case "interleave":
                y = plain(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1))
        return self.o(y.transpose(1, 2).reshape(x.shape[0], T, D))


@pytest.mark.parametrize("how", ["sdpa", "expand", "interleave"])
def test_grouped_queries(how: str) -> None:
    net = captured(Grouped(how), torch.randn(3, T, D))
    assert widths(net) == widths(net, exact=True) == {"q/0": 2, "q/1": 2, "q/2": 4, "v/1": 4}, net.frozen
    assert ("k.weight", 0) in {(m.parameter, m.dim) for m in net.group("q/0").members}
    assert ("k.weight", 0) not in {(m.parameter, m.dim) for m in net.group("q/1").members}
    prove(net)


def test_cross_attention_and_two_widths() -> None:
    class Cross(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.o = nn.Linear(5, 12), nn.Linear(7, 12), nn.Linear(7, 20), nn.Linear(20, 3)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            q, k, v = heads(self.q(x), 2), heads(self.k(y), 2), heads(self.v(y), 2)
            return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    net = captured(Cross(), (torch.randn(3, 4, 5), torch.randn(3, 9, 7)))
    assert widths(net) == widths(net, exact=True) == {"q/0": 2, "q/1": 6, "v/1": 10}
    prove(net)


def test_attention_without_heads() -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.o = nn.Linear(5, 8), nn.Linear(5, 8), nn.Linear(5, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.o(F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x)))

    net = captured(Single(), torch.randn(3, T, 5))
    assert widths(net) == {"q": 8, "v": 6}
    prove(net)


def test_a_softmax_over_heads_is_over_the_kept_ones() -> None:
    def talking(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.mT).softmax(1) @ v

    net = captured(SelfAttention(talking), torch.randn(3, T, D))
    assert widths(net, exact=False) == {"q/0": 4}
    assert "share one sum" in net.group("q/0").reason
    prove(net)


def test_a_running_sum_over_heads_or_tokens_skips_what_is_zero() -> None:
    def over(dim: int) -> Callable[..., Tensor]:
        return lambda q, k, v: plain(q, k, v).cumsum(dim)

    for dim in (1, 2):
        net = captured(SelfAttention(over(dim)), torch.randn(3, T, D))
        assert widths(net, exact=True) == {"q/0": 4, "q/1": 4, "v/1": 4}
        prove(net)


def test_batch_dimensions_of_a_product_broadcast() -> None:
    class Expanded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.w, self.out = nn.Linear(5, 4), nn.Parameter(torch.zeros(3, 4, 6)), nn.Linear(18, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out((self.a(x).unsqueeze(1) @ self.w).transpose(1, 2).flatten(2))

    net = captured(Expanded(), torch.randn(3, T, 5))
    assert widths(net)["a"] == 4
    prove(net)


class Sums(nn.Module):
    """Layers written as Einstein sums over parameters of three dimensions, and a gated linear unit."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.zeros(5, 3, 8)), nn.Parameter(torch.zeros(3, 4, 2))

    def forward(self, x: Tensor) -> Tensor:
        y = F.glu(torch.einsum("nti,ihd->nthd", x, self.a), dim=-1)
        return torch.einsum("nthd,hdo", torch.tanh(y), self.b)


def test_einstein_sums() -> None:
    net = captured(Sums(), torch.randn(3, T, 5))
    assert widths(net) == widths(net, exact=True) == {"a": 3, "a[0:4]": 4}, net.frozen
    roles = {(m.parameter, m.dim): m.role for group in net.groups for m in group.members}
    assert roles == {("a", 1): "out", ("a", 2): "out", ("b", 0): "in", ("b", 1): "in"}
    prove(net)


@pytest.mark.parametrize("equation", ["...i,io->...o", "nti,ii->nt", "...i,oi", "nti,oi->o"])
def test_ellipses_diagonals_and_letters_that_are_summed_out(equation: str) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.w = nn.Linear(5, 5), nn.Parameter(torch.zeros(5, 5))

        def forward(self, x: Tensor) -> Tensor:
            y = torch.einsum(equation, self.inner(x), self.w)
            return y.expand(x.shape[0], -1) if y.dim() == 1 else y

    net = captured(Odd(), torch.randn(3, T, 5))
    assert widths(net) == widths(net, exact=True) == {"inner": 5}, net.frozen
    prove(net)
