"""Small networks of the shapes that integer kernels meet, and the way from a module to a calibrated int8 network."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimtab.apply import apply
from trimtab.graph import Network, capture
from trimtab.plan import PER_CHANNEL, PER_TENSOR, LayerDecision, Plan, Scheme
from trimtab.quant import calibrate
from trimtab.tasks.task import Inputs, call

WEIGHT = Scheme(grid="symmetric", bits=8, granularity=PER_CHANNEL)
ACTIVATION = Scheme(grid="affine", bits=8, granularity=PER_TENSOR)


class Wired(nn.Module):
    """Named parts, and a function that wires them."""

    def __init__(self, wiring: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.wiring = wiring

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Any:
        return self.wiring(self, *args, **kwargs)


def conv(inputs: int, outputs: int, side: int = 3, act: nn.Module | None = None, **options: Any) -> nn.Sequential:
    """Convolution, batch norm and activation (ReLU unless given)."""
    options.setdefault("padding", side // 2)
    body = nn.Conv2d(inputs, outputs, side, bias=False, **options)
    return nn.Sequential(body, nn.BatchNorm2d(outputs), act or nn.ReLU())


def bare(inputs: int, outputs: int, side: int = 3, **options: Any) -> nn.Sequential:
    """Convolution and batch norm."""
    return conv(inputs, outputs, side, act=nn.Identity(), **options)


def head(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5))


def randomize(model: nn.Module, example: Inputs) -> None:
    """Batch norms with statistics of the data, and gammas of both signs, one of them zero."""
    norms = [m for m in model.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
    for norm in norms:
        norm.momentum = None
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        with torch.no_grad():
            norm.weight[:2] = torch.tensor([0.0, -1.5])
    model.train()
    with torch.no_grad():
        call(model, example)
    model.eval()


def plan_for(network: Network, layers: set[str] | None = None) -> Plan:
    """Every layer in int8, or only those named."""
    names = dict.fromkeys(layer.name.partition("#")[0] for layer in network.layers)
    decided = [name for name in names if layers is None or name in layers]
    return Plan(
        fingerprint=network.fingerprint,
        target="onnxruntime",
        layers=tuple(LayerDecision(layer=name, weight=WEIGHT, activation=ACTIVATION) for name in decided),
    )


def quantized(model: nn.Module, example: Inputs, layers: set[str] | None = None) -> Network:
    """The calibrated fake-quantized network of a module with random statistics."""
    randomize(model, example)
    network = capture(model, example)
    result = apply(network, plan_for(network, layers))
    result.eval()
    calibrate(result.module, [example])
    return result


def residual(twice: bool = False) -> nn.Module:
    def wiring(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        return m.head(F.relu(x + (x if twice else m.second(m.first(x)))))

    return Wired(wiring, stem=conv(3, 8), first=conv(8, 8), second=bare(8, 8), head=head(8))


def option_a() -> nn.Module:
    """The CIFAR ResNet's parameter-free shortcut: every second pixel, channels padded with zeros."""

    def wiring(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        return m.head(F.relu(m.second(m.first(x)) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))))

    return Wired(wiring, stem=conv(3, 8), first=conv(8, 12, stride=2), second=bare(12, 12), head=head(12))


def branches() -> nn.Module:
    """Concatenation of four scales, one of them average-pooled."""

    def wiring(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        parts = [F.max_pool2d(x, 3, 1, 1), F.avg_pool2d(x, 3, 1, 1), m.left(x), m.right(x)]
        return m.head(m.last(torch.cat(parts, 1)))

    return Wired(wiring, stem=conv(3, 8), left=conv(8, 4), right=bare(8, 4), last=conv(24, 6, 1), head=head(6))


def means(wiring: Callable[[Tensor], Tensor]) -> nn.Module:
    return Wired(lambda m, x: m.linear(wiring(m.stem(x))), stem=bare(3, 8), linear=nn.Linear(8, 5))


def squeeze_excite() -> nn.Module:
    def wiring(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        gate = torch.sigmoid(m.up(F.relu(m.down(x.mean((2, 3), keepdim=True)))))
        return m.head(m.last(x * gate))

    parts = {"stem": conv(3, 8), "down": nn.Conv2d(8, 4, 1), "up": nn.Conv2d(4, 8, 1), "last": conv(8, 8)}
    return Wired(wiring, **parts, head=head(8))


def hard_squeeze_excite() -> nn.Module:
    """MobileNetV3's block: a depthwise convolution, hardswish, and a gate."""

    def wiring(m: Any, x: Tensor) -> Tensor:
        x = m.deep(m.stem(x))
        gate = F.hardsigmoid(m.up(F.relu(m.down(F.adaptive_avg_pool2d(x, 1)))))
        return m.head(m.last(gate * x))

    swish = {"act": nn.Hardswish()}
    parts = {"stem": conv(3, 8, **swish), "deep": conv(8, 8, groups=8, **swish), "last": conv(8, 8)}
    up = nn.Conv2d(4, 8, 1)
    nn.init.uniform_(up.bias, -8, 8)  # the gate is integer where it reaches −3
    with torch.no_grad():
        up.bias[0] = -5
    return Wired(wiring, **parts, down=nn.Conv2d(8, 4, 1), up=up, head=head(8))


def u_net() -> nn.Module:
    """One level: down, up through a transposed convolution, and the skip concatenated."""

    def wiring(m: Any, x: Tensor) -> Tensor:
        skip = m.first(x)
        return m.out(m.last(torch.cat([skip, m.up(m.deep(F.max_pool2d(skip, 2)))], 1)))

    parts = {"first": conv(3, 8), "deep": conv(8, 12), "up": nn.ConvTranspose2d(12, 8, 2, stride=2)}
    return Wired(wiring, **parts, last=conv(16, 8), out=nn.Conv2d(8, 2, 1))


def pooled(pool: nn.Module, features: int, size: int = 8) -> nn.Module:
    return nn.Sequential(bare(3, 8), pool, conv(8, 8), nn.Flatten(), nn.Linear(8 * features, 5))


def two_inputs() -> nn.Module:
    def wiring(m: Any, x: Tensor, y: Tensor) -> Tensor:
        return m.out(torch.cat([F.relu(m.left(x)), F.relu(m.right(y))], 1))

    return Wired(wiring, left=nn.Linear(6, 8), right=nn.Linear(5, 4), out=nn.Linear(12, 3))


INTEGER_NETS: dict[str, tuple[Callable[[], nn.Module], list[tuple[int, ...]]]] = {
    "stride, odd sizes": (lambda: nn.Sequential(conv(3, 8), conv(8, 12, stride=2), head(12)), [(3, 11, 9)]),
    "groups, depthwise, 1x1": (
        lambda: nn.Sequential(conv(4, 8, groups=2), conv(8, 8, groups=8), conv(8, 6, 1), head(6)),
        [(4, 8, 8)],
    ),
    "dilation, uneven padding, no activation": (
        lambda: nn.Sequential(
            bare(3, 8, padding=2, dilation=2),
            nn.Conv2d(8, 8, 3, padding="same"),
            conv(8, 8, 5, padding=(1, 2)),
            head(8),
        ),
        [(3, 9, 9)],
    ),
    "relu6, hardtanh": (
        lambda: nn.Sequential(
            conv(3, 8, act=nn.Hardtanh(-0.3, 0.7)), conv(8, 8, act=nn.Hardtanh()), conv(8, 8, act=nn.ReLU6()), head(8)
        ),
        [(3, 8, 8)],
    ),
    "residual": (residual, [(3, 8, 8)]),
    "added to itself": (lambda: residual(twice=True), [(3, 8, 8)]),
    "option A": (option_a, [(3, 8, 8)]),
    "concatenation": (branches, [(3, 8, 8)]),
    "concatenation, one scale": (
        lambda: Wired(
            lambda m, x: (lambda a: m.head(m.last(torch.cat([a, a], 1))))(m.stem(x)),
            stem=conv(3, 8),
            last=conv(16, 6),
            head=head(6),
        ),
        [(3, 8, 8)],
    ),
    "max pool": (
        lambda: nn.Sequential(conv(3, 8), nn.MaxPool2d(2), bare(8, 8), nn.MaxPool2d(3, 2, 1), head(8)),
        [(3, 14, 14)],
    ),
    "average pool, padding counted and not": (
        lambda: pooled(nn.Sequential(nn.AvgPool2d(3, 2, 1), nn.AvgPool2d(3, 1, 1, count_include_pad=False)), 16),
        [(3, 8, 8)],
    ),
    "average pool, partial windows": (lambda: pooled(nn.AvgPool2d(2, ceil_mode=True), 16), [(3, 7, 7)]),
    "average pool, adaptive": (lambda: pooled(nn.AdaptiveAvgPool2d((4, 2)), 8), [(3, 8, 8)]),
    "mean, kept": (lambda: means(lambda x: x.mean((2, 3), keepdim=True).flatten(1)), [(3, 7, 9)]),
    "mean, not kept": (lambda: means(lambda x: x.mean((-1, -2))), [(3, 7, 9)]),
    "whole-map pool": (lambda: means(lambda x: F.avg_pool2d(x, 8).view(x.shape[0], -1)), [(3, 8, 8)]),
    "flatten, hidden layers": (
        lambda: nn.Sequential(conv(3, 4), nn.Flatten(), nn.Linear(4 * 64, 16), nn.ReLU(), nn.Linear(16, 5)),
        [(3, 8, 8)],
    ),
    "linear with batch norm": (
        lambda: nn.Sequential(
            nn.Linear(20, 16),
            nn.BatchNorm1d(16),
            nn.ReLU(),
            nn.Linear(16, 12, bias=False),
            nn.BatchNorm1d(12),
            nn.Linear(12, 5),
        ),
        [(20,)],
    ),
    "linear over three dimensions": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Hardtanh(-0.2, 0.1), nn.Linear(8, 5)),
        [(4, 6)],
    ),
    "conv1d": (
        lambda: nn.Sequential(
            nn.Conv1d(3, 8, 5, padding=2),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.AvgPool1d(2),
            nn.Conv1d(8, 8, 3, stride=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(8, 5),
        ),
        [(3, 30)],
    ),
    "two inputs": (two_inputs, [(6,), (5,)]),
    "sigmoid": (lambda: nn.Sequential(conv(3, 8, act=nn.Sigmoid()), conv(8, 8), head(8)), [(3, 8, 8)]),
    "silu": (lambda: nn.Sequential(conv(3, 8, act=nn.SiLU()), conv(8, 8), head(8)), [(3, 8, 8)]),
    "hardswish": (lambda: nn.Sequential(conv(3, 8, act=nn.Hardswish()), conv(8, 8), head(8)), [(3, 8, 8)]),
    "squeeze and excite": (squeeze_excite, [(3, 8, 8)]),
    "hard squeeze and excite": (hard_squeeze_excite, [(3, 8, 8)]),
    "shared weight": (
        lambda: Wired(
            lambda m, x: m.head(m.twice(m.twice(m.stem(x)))), stem=conv(3, 8), twice=conv(8, 8), head=head(8)
        ),
        [(3, 8, 8)],
    ),
}
"""Networks that the runtime executes in integers from end to end: how to make one, and the shapes of its inputs."""

MIXED_NETS: dict[str, tuple[Callable[[], nn.Module], list[tuple[int, ...]]]] = {
    "norm over another dimension": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(8, 5)),
        [(4, 6)],
    ),
    "gelu": (lambda: nn.Sequential(conv(3, 8, act=nn.GELU()), conv(8, 8), head(8)), [(3, 8, 8)]),
    "u-net": (u_net, [(3, 8, 8)]),
    "transposed convolution": (
        lambda: nn.Sequential(conv(3, 8), nn.ConvTranspose2d(8, 4, 2, stride=2), nn.ReLU(), nn.Conv2d(4, 2, 1)),
        [(3, 4, 4)],
    ),
    # Inside, torch puts time before the batch.
    "encoder layer": (
        lambda: nn.Sequential(
            nn.Linear(6, 8), nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), nn.Linear(8, 5)
        ),
        [(4, 6)],
    ),
}
"""Networks of which the runtime leaves some operators in float."""


def random_inputs(shapes: list[tuple[int, ...]], rows: int, gain: float = 1.0) -> tuple[Tensor, ...]:
    return tuple(gain * torch.randn(rows, *shape) for shape in shapes)
