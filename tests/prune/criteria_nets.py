"""Small networks of three kinds, with batches: every criterion must work on all of them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimtab.graph import Network, capture


class Images(nn.Module):
    """A residual stream over two branches, batch norms, a grouped convolution, a flatten before a hidden linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.inner, self.bn1 = nn.Conv2d(8, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5)
        self.outer, self.bn2 = nn.Conv2d(5, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.side, self.bn3 = nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.grouped, self.bn4 = nn.Conv2d(8, 12, 3, groups=4, bias=False), nn.BatchNorm2d(12)
        self.hidden, self.head = nn.Linear(12 * 4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn0(self.stem(x)))
        x = x + self.bn2(self.outer(F.relu(self.bn1(self.inner(x)))))
        x = x + self.bn3(self.side(F.relu(x)))
        x = F.relu(self.bn4(self.grouped(x)))
        return self.head(F.relu(self.hidden(x.flatten(1))))


class Sequences(nn.Module):
    """A bidirectional LSTM of two layers, read at the mean over time."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 5, num_layers=2, batch_first=True, bidirectional=True)
        self.hidden, self.head = nn.Linear(10, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.hidden(self.lstm(x)[0].mean(1))))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 10), nn.Linear(10, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, d))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Tokens(nn.Module):
    """A transformer of two blocks over a table of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.place = nn.Embedding(7, 8), nn.Parameter(torch.randn(5, 8))
        self.blocks, self.norm = nn.Sequential(Block(8, 2), Block(8, 2)), nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.table(x) + self.place)).mean(1))


KINDS = ("images", "sequences", "tokens")


def make(kind: str, seed: int = 0) -> tuple[Network, list[tuple[Tensor, Tensor]]]:
    """A network with random weights and statistics, and three batches with labels."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: nn.Module = {"images": Images, "sequences": Sequences, "tokens": Tokens}[kind]().eval()
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.normal_()
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
        batches = [(_inputs(kind, rows), torch.randint(3, (rows,))) for rows in (9, 7, 8)]
    return capture(model, batches[0][0]), batches


def _inputs(kind: str, rows: int) -> Tensor:
    shape = {"images": (rows, 2, 4, 4), "sequences": (rows, 6, 3), "tokens": (rows, 5)}[kind]
    return torch.randint(7, shape) if kind == "tokens" else torch.randn(shape)
