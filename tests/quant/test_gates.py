"""Hardswish and SiLU as products of codes: near the function itself, and left alone where the codes do not reach."""

import pytest
import torch
from torch import nn

from int8_nets import conv, head, quantized
from trimtab.quant import fold
from trimtab.quant.gates import gates_on_codes

aten = torch.ops.aten


@pytest.mark.parametrize("act", [nn.Hardswish(), nn.Hardsigmoid(), nn.SiLU()])
def test_a_gate_is_within_a_step(act: nn.Module) -> None:
    """The last convolution passes its input through, so that the output is the rounded activation."""
    model = nn.Sequential(nn.Conv2d(1, 1, 1), act, nn.Conv2d(1, 1, 1))
    for layer in (model[0], model[2]):
        nn.init.ones_(layer.weight)
        nn.init.zeros_(layer.bias)
    x = torch.linspace(-9, 11, 1000).view(10, 1, 10, 10)
    network = quantized(model, (x,))
    folded = fold(network.module)
    rewritten = gates_on_codes(folded)
    assert all(node.target not in {aten.hardswish.default, aten.silu.default} for node in rewritten.graph.nodes)
    exact, gated = folded(x), rewritten(x)
    step = 20 / 255
    assert float((gated - exact).abs().max()) <= 1.6 * step
    assert float((gated - exact).abs().mean()) <= 0.5 * step
    ends = (x >= 3.1) | (x <= -3.1) if not isinstance(act, nn.SiLU) else x > 1e9
    assert torch.equal(gated[ends], exact[ends])


@pytest.mark.parametrize("width", [4.0, 30.0])
def test_codes_that_do_not_reach_the_lower_end_stay(width: float) -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Hardswish(), nn.Conv2d(1, 1, 1))
    nn.init.ones_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    x = torch.rand(4, 1, 8, 8) * width
    folded = fold(quantized(model, (x,)).module)
    rewritten = gates_on_codes(folded)
    assert any(node.target == aten.hardswish.default for node in rewritten.graph.nodes)
    assert torch.equal(rewritten(x), folded(x))


def test_a_gate_that_nobody_rounds_stays() -> None:
    model = nn.Sequential(conv(3, 8), nn.Conv2d(8, 8, 1), nn.Hardswish(), nn.Flatten(2), nn.Softmax(2))
    x = torch.randn(4, 3, 8, 8)
    rewritten = gates_on_codes(fold(quantized(model, (x,)).module))
    assert any(n.target == aten.hardswish.default for n in rewritten.graph.nodes)


def test_the_folded_graph_is_not_changed() -> None:
    x = torch.randn(4, 3, 8, 8) * 3
    folded = fold(quantized(nn.Sequential(conv(3, 8, act=nn.Hardswish()), conv(8, 8), head(8)), (x,)).module)
    before = folded.code
    gates_on_codes(folded)
    assert folded.code == before
