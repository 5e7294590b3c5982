"""Weights that are computed from parameters: norms of weights, masks, standardization; and tables."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from graph_proofs import captured, prove, widths
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm

from trimtab.graph import capture

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")


class Around(nn.Module):
    """[N, 3, 5, 5] → 6 channels → the layer, of 8 → 4 channels."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Conv2d(3, 6, 3, padding=1), layer, nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.gelu(self.layer(self.first(x))))


class LastLinear(nn.Module):
    """A linear layer over channels."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.linear = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.movedim(1, -1)).movedim(-1, 1)


class Squashed(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return torch.tanh(weight) / 2


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).mT


def conv(**options: Any) -> nn.Conv2d:
    return nn.Conv2d(6, 8, 3, **options)


WEIGHTS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "weight_norm": (lambda: parametrizations.weight_norm(conv()), "layer.parametrizations.weight.original1"),
    "weight_norm_old": (lambda: old_weight_norm(conv(bias=False)), "layer.weight_v"),
    "weight_norm_of_all": (
        lambda: parametrizations.weight_norm(conv(), dim=None),
        "layer.parametrizations.weight.original1",
    ),
    "weight_norm_of_columns": (
        lambda: LastLinear(parametrizations.weight_norm(nn.Linear(6, 8), dim=1)),
        "layer.linear.parametrizations.weight.original1",
    ),
    "spectral_norm": (lambda: parametrizations.spectral_norm(conv()), "layer.parametrizations.weight.original"),
    "spectral_norm_old": (lambda: old_spectral_norm(conv()), "layer.weight_orig"),
    "mask": (lambda: prune.random_unstructured(conv(), "weight", amount=0.3), "layer.weight_orig"),
    "mask_of_rows": (lambda: prune.ln_structured(conv(), "weight", 0.5, 2, 0), "layer.weight_orig"),
    "any_function": (
        lambda: parametrize.register_parametrization(conv(), "weight", Squashed()),
        "layer.parametrizations.weight.original",
    ),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_inputs_and_outputs_of_a_computed_weight_can_be_cut(name: str) -> None:
    build, parameter = WEIGHTS[name]
    net = captured(Around(build()), torch.randn(3, 3, 5, 5))
    assert widths(net) == widths(net, exact=True) == {"first": 6, parameter: 8}, net.frozen
    roles = {(m.parameter, m.dim): m.role for group in net.groups for m in group.members}
    assert roles[(parameter, 0)] == "out"
    assert roles[("last.weight", 1)] == "in"
    assert [layer.name for layer in net.layers] == ["first", "last"]
    prove(net)


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_module_is_bit_for_bit_what_it_was(name: str) -> None:
    model = Around(WEIGHTS[name][0]()).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    attributes = {key: dict(vars(module)) for key, module in model.named_modules()}
    capture(model, torch.randn(3, 3, 5, 5))
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    for key, module in model.named_modules():
        assert vars(module).keys() == attributes[key].keys()
        assert all(vars(module)[name] is value for name, value in attributes[key].items())


def test_what_mixes_rows_is_frozen_with_its_name() -> None:
    layer = LastLinear(parametrizations.orthogonal(nn.Linear(6, 8)))
    net = capture(Around(layer).eval(), torch.randn(3, 3, 5, 5))
    [first] = [frozen for frozen in net.frozen if frozen.name == "first"]
    assert "householder" in first.operator
    prove(net)
    layer = LastLinear(parametrize.register_parametrization(nn.Linear(8, 8), "weight", Symmetric()))
    net = captured(nn.Sequential(nn.Conv2d(3, 8, 1), layer, nn.Conv2d(8, 4, 1)), torch.randn(3, 3, 5, 5))
    assert not net.groups
    assert any("triangle" in frozen.reason for frozen in net.frozen)


class Standardized(nn.Conv2d):
    """Rows of the weight have mean 0 and variance 1, written in one of three ways."""

    def __init__(self, way: str) -> None:
        super().__init__(6, 8, 3)
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        if self.way == "batch_norm":
            w = F.batch_norm(w.reshape(1, 8, -1), None, None, training=True, momentum=0.0, eps=1e-6).reshape_as(w)
        elif self.way == "std":
            w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-6)
        else:
            var, mean = torch.var_mean(w, (1, 2, 3), keepdim=True, unbiased=False)
            w = (w - mean) / torch.sqrt(var + 1e-6)
        return F.conv2d(x, w, self.bias)


@pytest.mark.parametrize("way", ["batch_norm", "std", "var_mean"])
def test_a_standardized_weight_is_not_exact_over_its_inputs(way: str) -> None:
    net = captured(Around(Standardized(way)), torch.randn(3, 3, 5, 5))
    assert widths(net, exact=False) == {"first": 6}
    assert widths(net, exact=True) == {"layer": 8}, net.frozen
    assert "variance" in net.group("first").reason
    prove(net)


class Words(nn.Module):
    """A table, its rows' numbers, and a layer over what is found."""

    def __init__(self, table: nn.Module, look: Callable[..., Tensor]) -> None:
        super().__init__()
        self.table, self.look, self.out = table, look, nn.Linear(8, 3)

    def forward(self, x: Tensor, *weights: Tensor) -> Tensor:
        return self.out(torch.tanh(self.look(self.table, x, *weights)))


def bag(**options: Any) -> nn.EmbeddingBag:
    return nn.EmbeddingBag(11, 8, **options)


def call_bag(table: nn.Module, x: Tensor) -> Tensor:
    return table(x)


def with_offsets(table: nn.Module, x: Tensor) -> Tensor:
    return table(x.reshape(-1), torch.arange(x.shape[0]) * 5)


def weighted(table: nn.Module, x: Tensor, weights: Tensor) -> Tensor:
    return table(x, per_sample_weights=weights)


TABLES: dict[str, tuple[nn.Module, Callable[..., Tensor]]] = {
    "sum": (bag(mode="sum"), call_bag),
    "mean_padded": (bag(mode="mean", padding_idx=2), call_bag),
    "max": (bag(mode="max"), call_bag),
    "offsets": (bag(), with_offsets),
    "weighted": (bag(mode="sum"), weighted),
    "bag_of_limited_rows": (bag(mode="sum", max_norm=0.5), call_bag),
    "padded": (nn.Embedding(11, 8, padding_idx=3), lambda table, x: table(x).mean(1)),
    "limited_rows": (nn.Embedding(11, 8, max_norm=0.5), lambda table, x: table(x).amax(1)),
}


@pytest.mark.parametrize("name", TABLES)
def test_the_width_of_a_table_is_a_group(name: str) -> None:
    table, look = TABLES[name]
    model = Words(table, look)
    before = copy.deepcopy(model.state_dict())
    x = torch.randint(0, 11, (4, 5))
    example = (x, torch.rand(4, 5)) if look is weighted else x
    capture(model, example)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    net = captured(model, example)
    assert widths(net) == widths(net, exact=True) == {"table": 8}, net.frozen
    prove(net)


def test_a_table_that_several_share() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.bag = nn.Embedding(11, 8), bag(mode="mean")
            self.bag.weight = self.words.weight
            self.out = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.words(x[:, 0]) * self.bag(x)) @ self.words.weight.T

    net = captured(Shared(), torch.randint(0, 11, (4, 5)))
    assert widths(net) == widths(net, exact=True) == {"words": 8}
    assert {(m.parameter, m.dim) for m in net.group("words").members} == {
        ("words.weight", 1),
        ("out.weight", 0),
        ("out.weight", 1),
        ("out.bias", 0),
    }
    prove(net)
