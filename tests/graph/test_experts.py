"""Mixtures of experts, written as they are found in the wild: experts, their inner width and the stream can be cut."""

import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from graph_proofs import captured, prove, widths
from torch import Tensor, nn

from trimtab.errors import PlanError
from trimtab.graph import cut

D, E, W, K, WORDS, T = 8, 6, 10, 2, 13, 5


class Stack(nn.Module):
    """Experts of one mixture in two tensors [E, D, 2·W] and [E, W, D], between an embedding and an output layer."""

    def __init__(self, mixture: Callable[["Stack", Tensor], Tensor]) -> None:
        super().__init__()
        self.mixture = mixture
        self.words, self.gate, self.head = nn.Embedding(WORDS, D), nn.Linear(D, E), nn.Linear(D, 3)
        self.up, self.down = nn.Parameter(torch.empty(E, D, 2 * W)), nn.Parameter(torch.empty(E, W, D))
        self.bias = nn.Parameter(torch.empty(E, D))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids).reshape(-1, D)
        return self.head(x + self.mixture(self, x)).reshape(ids.shape[0], -1, 3)


def glu(x: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return F.silu(a) * b


def soft(m: Stack, x: Tensor) -> Tensor:
    mixing = m.gate(x).softmax(-1)
    y = glu(torch.einsum("nd,edi->eni", x, m.up))
    y = torch.einsum("eni,eio->eno", y, m.down) + m.bias[:, None]
    return torch.einsum("ne,eno->no", mixing, y)


def every_expert(m: Stack, x: Tensor) -> Tensor:
    """[E, N, D]: what every expert says about every row."""
    return glu(x.expand(E, -1, -1) @ m.up) @ m.down + m.bias.unsqueeze(1)


def masked_by_one_hot(m: Stack, x: Tensor) -> Tensor:
    weights, chosen = m.gate(x).softmax(-1).topk(K, -1)
    weights = weights / weights.sum(-1, keepdim=True)
    mixing = (F.one_hot(chosen, E) * weights[..., None]).sum(1)
    return (every_expert(m, x) * mixing.t().unsqueeze(-1)).sum(0)


def masked_by_comparison(m: Stack, x: Tensor) -> Tensor:
    weights, chosen = m.gate(x).topk(K, -1)
    mask = chosen.unsqueeze(-1) == torch.arange(E, device=x.device)
    return torch.einsum("nk,nke,eno->no", weights.softmax(-1), mask.to(x.dtype), every_expert(m, x))


def scattered(m: Stack, x: Tensor) -> Tensor:
    logits = m.gate(x)
    weights, chosen = logits.topk(K, dim=-1)
    mixing = torch.full_like(logits, float("-inf")).scatter(-1, chosen, weights).softmax(-1)
    return torch.einsum("ne,eno->no", mixing, every_expert(m, x))


def gathered(m: Stack, x: Tensor) -> Tensor:
    weights, chosen = torch.topk(m.gate(x).sigmoid(), K, dim=-1)
    y = glu(torch.einsum("nd,nkdi->nki", x, m.up[chosen]))
    y = torch.einsum("nki,nkio->nko", y, m.down[chosen]) + m.bias[chosen]
    return (y * weights.unsqueeze(-1)).sum(1)


def batched(m: Stack, x: Tensor) -> Tensor:
    """A matrix a chosen pair of row and expert."""
    weights, chosen = m.gate(x).softmax(-1).topk(K, -1)
    rows, flat = x.repeat_interleave(K, dim=0), chosen.reshape(-1)
    y = torch.bmm(glu(torch.bmm(rows.unsqueeze(1), m.up[flat])), m.down[flat]).squeeze(1)
    y = (y + m.bias[flat]) * weights.reshape(-1).unsqueeze(-1)
    return y.view(x.shape[0], K, D).sum(1)


def switch(m: Stack, x: Tensor) -> Tensor:
    """One expert a row, by argmax, its weight by gather."""
    scores = m.gate(x).softmax(-1)
    chosen = scores.argmax(-1)
    y = torch.einsum("nd,ndi->ni", x, m.up.index_select(0, chosen))
    y = torch.einsum("ni,nio->no", glu(y), torch.index_select(m.down, 0, chosen)) + F.embedding(chosen, m.bias)
    return y * scores.gather(1, chosen.unsqueeze(1))


def switch_by_maximum(m: Stack, x: Tensor) -> Tensor:
    weights, chosen = m.gate(x).softmax(-1).max(-1)
    y = torch.einsum("ne,eno->no", F.one_hot(chosen, E).to(x.dtype), every_expert(m, x))
    return y * weights.unsqueeze(-1)


MIXTURES = [
    soft,
    masked_by_one_hot,
    masked_by_comparison,
    scattered,
    gathered,
    batched,
    switch,
    switch_by_maximum,
]
TOP = {masked_by_one_hot, masked_by_comparison, scattered, gathered, batched}


def tokens() -> Tensor:
    return torch.randint(0, WORDS, (3, T))


@pytest.mark.parametrize("mixture", MIXTURES, ids=lambda mixture: mixture.__name__)
def test_mixture(mixture: Callable[[Stack, Tensor], Tensor]) -> None:
    net = captured(Stack(mixture), tokens())
    assert widths(net) == {"words": D, "gate": E, "up[0:10]": W}, net.frozen
    assert widths(net, exact=False) == {"gate": E}
    group = net.group("gate")
    assert {(m.parameter, m.dim) for m in group.members} == {
        ("gate.weight", 0),
        ("gate.bias", 0),
        ("up", 0),
        ("down", 0),
        ("bias", 0),
    }
    assert group.at_least == (K if mixture in TOP else 1)
    prove(net)


def test_fewer_experts_than_a_row_takes_are_refused() -> None:
    net = captured(Stack(gathered), tokens())
    with pytest.raises(PlanError, match=r"group 'gate': at least 2 of 6 units must be kept, got 1; keep 2 or more"):
        cut(net, {"gate": [3]})
    small = cut(net, {"gate": [1, 4]})
    assert "gate" not in widths(small)
    assert any("2 of its positions are chosen" in frozen.reason for frozen in small.frozen if frozen.name == "gate")


def test_the_kept_experts_are_the_ones_that_were_named() -> None:
    """Against the formula itself: logits of removed experts at minus infinity, nothing else changed."""
    model = Stack(gathered)
    net = captured(model, tokens())
    kept, ids = sorted(random.sample(range(E), 3)), tokens()
    with torch.no_grad():
        model.gate.bias[[e for e in range(E) if e not in kept]] = -1e30
        assert torch.allclose(cut(net, {"gate": kept})(ids), model(ids), atol=1e-5)


def limited_to_groups(m: Stack, x: Tensor) -> Tensor:
    """First the better half of the groups, then experts of these."""
    scores = m.gate(x).sigmoid()
    of_groups = scores.view(-1, 2, E // 2).topk(1, dim=-1)[0].sum(-1)
    group = of_groups.topk(1, dim=-1, sorted=False)[1]
    mask = torch.zeros_like(of_groups).scatter_(1, group, 1).unsqueeze(-1).expand(-1, 2, E // 2).reshape(-1, E)
    chosen = scores.masked_fill(~mask.bool(), 0.0).topk(K, dim=-1)[1]
    weights = scores.gather(1, chosen)
    y = torch.einsum("nki,nkio->nko", glu(torch.einsum("nd,nkdi->nki", x, m.up[chosen])), m.down[chosen])
    return (y * weights.unsqueeze(-1)).sum(1)


def test_groups_of_experts_stay_and_lose_experts() -> None:
    net = captured(Stack(limited_to_groups), tokens())
    assert widths(net) == {"words": D, "gate/1": E // 2, "up[0:10]": W}, net.frozen
    assert next(frozen.width for frozen in net.frozen if frozen.name == "gate/0") == 2
    prove(net)


class Sorted(nn.Module):
    """Rows sorted by expert, and torch's product of groups of rows with a stack of matrices, in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.gate, self.head = nn.Embedding(WORDS, 16), nn.Linear(16, E), nn.Linear(16, 3)
        self.up, self.down = nn.Parameter(torch.empty(E, 32, 16)), nn.Parameter(torch.empty(E, 16, 16))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids).reshape(-1, 16)
        weights, chosen = self.gate(x).softmax(-1).topk(K, -1)
        flat, order = torch.sort(chosen.reshape(-1))
        ends = torch.histc(flat.float(), bins=E, min=0, max=E - 1).cumsum(0, dtype=torch.int32)
        y = glu(F.grouped_mm(x[order // K], self.up.transpose(1, 2), offs=ends))
        y = F.grouped_mm(y, self.down, offs=ends) * weights.reshape(-1)[order].unsqueeze(-1)
        back = torch.empty_like(order)
        back[order] = torch.arange(order.shape[0], device=ids.device)
        return self.head(x + y[back].view(-1, K, 16).sum(1))


def test_sorted_rows_and_grouped_products() -> None:
    net = captured(Sorted().bfloat16(), tokens())
    assert widths(net) == {"words": 16, "gate": E, "up[0:16]": 16}, net.frozen
    assert {group.name: (group.at_least, group.multiple_of) for group in net.groups} == {
        "words": (8, 8),
        "gate": (K, 1),
        "up[0:16]": (8, 8),
    }
    with pytest.raises(PlanError, match=r"must be a multiple of 8, got 9; keep 8 or 16"):
        cut(net, {"words": range(9)})
    prove(net)


class Loop(nn.Module):
    """Experts as modules of their own, each weighted by its entry of the gate."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.gate, self.head = nn.Embedding(WORDS, D), nn.Linear(D, E), nn.Linear(D, 3)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(D, W), nn.ReLU(), nn.Linear(W, D, bias=False)) for _ in range(E)
        )

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        weights = self.gate(x).softmax(-1)
        return self.head(sum(weights[..., e : e + 1] * expert(x) for e, expert in enumerate(self.experts)))


def test_a_loop_over_modules_cuts_their_widths_and_says_why_the_gate_stays() -> None:
    net = captured(Loop(), tokens())
    assert widths(net) == {"words": D, "experts.0.2": D} | {f"experts.{e}.0": W for e in range(E)}
    gate = next(frozen for frozen in net.frozen if frozen.name == "gate")
    assert (gate.width, gate.source.split(":")[0]) == (E, "test_experts.py")
    assert "taken one by one" in gate.reason
    prove(net)


COMPUTED = "computed with"
FROZEN: dict[str, tuple[Callable[[Stack, Tensor, Tensor], Tensor], str]] = {
    "arithmetic": (lambda m, x, chosen: m.bias[(chosen + 1) % E], COMPUTED),
    "a_number": (lambda m, x, chosen: torch.where(chosen.unsqueeze(-1) == 2, x, x + 1), "compared with other"),
    "its_own_feature": (lambda m, x, chosen: x * chosen.unsqueeze(-1), COMPUTED),
    "a_cast": (lambda m, x, chosen: x * chosen.bool().unsqueeze(-1), COMPUTED),
    "another_table": (lambda m, x, chosen: torch.ones(2 * E, D)[chosen] * x, "picked by number"),
    "one_more_class": (lambda m, x, chosen: F.one_hot(chosen, E + 1)[:, :E].to(x.dtype) @ m.bias, "classes"),
    "other_bins": (lambda m, x, chosen: x * torch.histc(chosen.float(), E, -1, E).amax(), "bins"),
    "in_place": (lambda m, x, chosen: m.bias[chosen.clamp_(max=3)], COMPUTED),
    "joined": (lambda m, x, chosen: m.bias[torch.cat([chosen, chosen])[: x.shape[0]]], COMPUTED),
    "filled": (lambda m, x, chosen: m.bias[chosen.masked_fill(x.sum(1) > 0, 1)], COMPUTED),
    "written": (lambda m, x, chosen: m.bias[chosen.scatter(0, chosen * 0, 1)], COMPUTED),
    "its_range": (lambda m, x, chosen: torch.arange(E) @ F.one_hot(chosen, E).t() * x.t(), COMPUTED),
}


@pytest.mark.parametrize("name", FROZEN)
def test_experts_whose_numbers_mean_more_are_frozen(name: str) -> None:
    body, reason = FROZEN[name]

    def mixture(m: Stack, x: Tensor) -> Tensor:
        scores = m.gate(x).softmax(-1)
        y = body(m, x, scores.argmax(-1))
        y = y.t() if y.shape[0] == D else y
        return switch(m, x) + (scores.sum() * 0 + 1) * y

    net = captured(Stack(mixture), tokens())
    assert widths(net) == {"words": D, "up[0:10]": W}, net.frozen
    gate = next(frozen for frozen in net.frozen if frozen.name == "gate")
    assert reason in gate.reason, gate
    prove(net)


class Features(nn.Module):
    """Two layers of 8 features a row, what `body` makes of them, and an output layer over it."""

    def __init__(self, body: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.a, self.b, self.out = body, nn.Linear(5, 8), nn.Linear(5, 8), nn.LazyLinear(3)
        self(torch.zeros(3, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.body(self.a(x), self.b(x)))


FEATURES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], dict[str, int], dict[str, int]]] = {
    "softmax": (lambda a, b: a.softmax(1) * b, {}, {"a": 8}),
    "log_softmax": (lambda a, b: F.log_softmax(a, -1), {}, {"a": 8}),
    "largest": (lambda a, b: a.max(1, keepdim=True)[0] * b, {"b": 8}, {"a": 8}),
    "smallest": (lambda a, b: a.min(1)[0].unsqueeze(1) * b, {"b": 8}, {"a": 8}),
    "best_three": (lambda a, b: a.topk(3, 1, largest=False)[0] * b[:, 5:], {"b[0:5]": 5}, {"a": 8}),
    "maxout": (lambda a, b: (a * b).view(-1, 4, 2).max(-1)[0], {"a/0": 4}, {"a/1": 2}),
    "picked": (lambda a, b: b.gather(1, a.argmax(1, keepdim=True)) * a, {}, {"a": 8}),
    "hot": (lambda a, b: F.one_hot(a.argmin(-1), 8) * b, {}, {"a": 8}),
    "identity": (lambda a, b: a @ (torch.arange(8) == torch.arange(8)[:, None]).to(a.dtype) + b, {"a": 8}, {}),
    "running": (lambda a, b: torch.relu(a).cumsum(1) * b, {"a": 8}, {}),
    "added": (lambda a, b: a.index_add(0, torch.tensor([0, 2]), b[:2]), {"a": 8}, {}),
    "put": (lambda a, b: torch.index_put(a, (torch.tensor([2, 0]),), b[:2]), {"a": 8}, {}),
    "scattered": (lambda a, b: a.scatter(0, torch.zeros(1, 8, dtype=torch.long), b[:1]), {"a": 8}, {}),
}


@pytest.mark.parametrize("name", FEATURES)
def test_features_that_are_chosen_picked_and_written(name: str) -> None:
    body, exact, inexact = FEATURES[name]
    net = captured(Features(body), torch.randn(3, 5))
    assert widths(net, exact=False) == inexact, net.frozen
    assert widths(net, exact=True).items() >= exact.items(), net.frozen
    prove(net)
