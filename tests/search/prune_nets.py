"""Networks to prune: a residual convolutional one, an attention, an LSTM; and what a plan does to them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimtab.graph import Network, capture
from trimtab.plan import Plan


class Residual(nn.Module):
    """Two residual blocks, a layer of fixed inputs, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.first, self.second = Block(8, 12), Block(8, 20)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        return self.head(self.second(self.first(x)).mean((2, 3)))


class Block(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(width, hidden, 3, padding=1), nn.Conv2d(hidden, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.b(F.relu(self.a(x))))


class Attention(nn.Module):
    """Six heads of 8 channels, and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(12, 48), nn.Linear(12, 48), nn.Linear(12, 48)
        self.out, self.up, self.down = nn.Linear(48, 12), nn.Linear(12, 30), nn.Linear(30, 4)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (layer(x).view(n, t, 6, 8).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return self.down(F.gelu(self.up(y)))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(6, 16, batch_first=True), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def residual() -> Network:
    return capture(Residual().eval(), torch.randn(3, 3, 6, 6))


def attention() -> Network:
    return capture(Attention().eval(), torch.randn(3, 5, 12))


def recurrent() -> Network:
    return capture(Recurrent().eval(), torch.randn(3, 5, 6))


def gone(network: Network, plan: Plan) -> dict[str, int]:
    """Units that the plan takes from each group."""
    kept = {decision.group: len(decision.kept) for decision in plan.groups}
    return {group.name: group.width - kept.get(group.name, group.width) for group in network.groups}


def zeros(network: Network, parameter: str) -> int:
    return int((network.module.get_parameter(parameter) == 0).sum())
