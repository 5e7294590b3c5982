"""Small networks of the pieces that integer kernels meet in pictures, and a training of seconds."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimtab.tasks.task import Inputs, call


class Convolution(nn.Sequential):
    """Convolution, batch norm and what comes after."""

    def __init__(
        self, width_in: int, width: int, side: int = 3, *, act: nn.Module | None = None, **options: int
    ) -> None:
        body = nn.Conv2d(width_in, width, side, padding=side // 2, bias=False, **options)
        super().__init__(body, nn.BatchNorm2d(width), act or nn.ReLU())


class Inverted(nn.Module):
    """MobileNetV2's block: wider, one filter a channel, narrow again without an activation, and a shortcut."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        inner = 4 * width_in
        self.adds = stride == 1 and width_in == width
        self.body = nn.Sequential(
            Convolution(width_in, inner, 1, act=nn.ReLU6()),
            Convolution(inner, inner, stride=stride, groups=inner, act=nn.ReLU6()),
            Convolution(inner, width, 1, act=nn.Identity()),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.adds else self.body(x)


class Inception(nn.Module):
    """Four branches of different reach, concatenated: 1×1, 3×3, an average pool and a max pool."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.point, self.near = Convolution(width_in, width, 1), Convolution(width_in, width)
        self.smooth, self.sharp = Convolution(width_in, width, 1), Convolution(width_in, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        smooth = self.smooth(F.avg_pool2d(x, 3, 1, 1))
        return torch.cat([self.point(x), self.near(x), smooth, self.sharp(F.max_pool2d(x, 3, 1, 1))], 1)


class Dense(nn.Module):
    """DenseNet's block: every layer reads what all before it wrote; then narrower, and halved by an average pool."""

    def __init__(self, width_in: int, growth: int, layers: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Convolution(width_in + i * growth, growth) for i in range(layers))
        self.narrow = Convolution(width_in + layers * growth, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return F.avg_pool2d(self.narrow(x), 2)


def _with_head(width: int, *body: nn.Module) -> nn.Module:
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def mobile() -> nn.Module:
    """MobileNetV2's blocks, with and without a shortcut."""
    stem = Convolution(3, 16, stride=2, act=nn.ReLU6())
    return _with_head(48, stem, Inverted(16, 16, 1), Inverted(16, 32, 2), Inverted(32, 32, 1), Inverted(32, 48, 2))


def concatenating() -> nn.Module:
    """Inception's blocks."""
    return _with_head(64, Convolution(3, 16, stride=2), Inception(16, 8), nn.MaxPool2d(2), Inception(32, 16))


def pooling() -> nn.Module:
    """DenseNet's blocks: average pools, and concatenations of what was concatenated."""
    return _with_head(40, Convolution(3, 16, stride=2), Dense(16, 8, 2, 24), Dense(24, 12, 2, 40))


def learn(
    model: nn.Module,
    batches: Iterable[tuple[Inputs, Any]],
    loss: Callable[[Any, Any], Tensor],
    *,
    epochs: int = 1,
    rate: float = 3e-3,
) -> nn.Module:
    """Train in place, by AdamW at a constant rate."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    model.train()
    for _ in range(epochs):
        for inputs, target in batches:
            optimizer.zero_grad()
            loss(call(model, inputs), target).backward()
            optimizer.step()
    return model.eval()
