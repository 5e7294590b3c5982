"""Small networks that are pruned while they train, and the loop that trains them."""

import functools
import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimtab.graph import Network, capture


class Mixed(nn.Module):
    """Convolutions with a residual stream and batch norm, an LSTM over the rows, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.lstm = nn.LSTM(8 * 4, 8, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        x = F.relu(x + self.body(x))
        x, _ = self.lstm(x.transpose(1, 2).flatten(2))
        return self.head(x[:, -1])


def mixed(dtype: torch.dtype = torch.float32) -> Network:
    """Fresh weights in a graph that is captured once."""
    network = _captured(dtype).clone().train()
    fresh = Mixed().to(dtype).state_dict()
    network.load_state_dict({name: fresh[name] for name in network.state_dict()})
    return network


@functools.cache
def _captured(dtype: torch.dtype) -> Network:
    return capture(Mixed().to(dtype), torch.randn(3, 2, 4, 4, dtype=dtype))


def perceptron(*widths: int) -> Network:
    layers = [m for a, b in itertools.pairwise(widths) for m in (nn.Linear(a, b), nn.Tanh())]
    return capture(nn.Sequential(*layers[:-1]), torch.randn(3, widths[0])).train()


def batch(network: Network, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(8, *network.example.shape[1:], generator=generator)
    return x, torch.randint(4, (8,), generator=generator)


def sgd(network: Network) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)


def train(network, pruner, optimizer, steps, first=0, watch=None) -> None:
    """`watch` is called after each step."""
    for i in range(first, first + steps):
        x, y = batch(network, seed=i)
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()
        pruner.step()
        if watch is not None:
            watch()
