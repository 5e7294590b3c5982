"""Random convolutional networks and MLPs: cut equals masked wherever a group says that it is exact."""

import random

import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from trimtab.graph import capture, cut, verify

# fmt: off
MOVES = [
    "conv", "conv", "grouped", "depthwise", "norm", "act", "scale", "residual", "concat",
    "split", "slice", "pad", "shuffle", "gate", "pool", "shared", "input", "mean_gate",
    "select", "stack", "expand",
]
# fmt: on


class RandomNet(nn.Module):
    """A stream of [N, C, 6, 6] that a random list of moves transforms; a pool of earlier values feeds joins."""

    def __init__(self, moves: list[tuple[str, int]], inputs: int) -> None:
        super().__init__()
        self.moves, self.inputs = moves, inputs
        self.layers = nn.ModuleDict()
        with torch.no_grad():
            widths = self.run([torch.zeros(2, 3, 6, 6) for _ in range(inputs)])
        for name, tensor in self.named_buffers():
            tensor.data = torch.rand_like(tensor) + 0.5 if "var" in name else tensor
        for name, parameter in self.named_parameters():
            nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.3)
        self.width = widths.shape[1]

    def forward(self, *xs: Tensor) -> Tensor:
        return self.run(list(xs))

    def make(self, name: str, layer: nn.Module) -> nn.Module:
        if name not in self.layers:
            self.layers[name] = layer
        return self.layers[name]

    def run(self, xs: list[Tensor]) -> Tensor:
        x = self.make("stem", nn.Conv2d(3, 12, 3, padding=1))(xs[0])
        past = [x]
        for i, (move, seed) in enumerate(self.moves):
            x = self.step(f"{move}{i}", move, seed, x, past, xs)
            past.append(x)
        x = F.adaptive_avg_pool2d(x, 2)
        head = self.make("head1", nn.Linear(x.shape[1] * 4, 9))
        y = F.relu(head(x.reshape(x.shape[0], -1) if len(self.moves) % 2 else x.flatten(1)))
        return self.make("head2", nn.Linear(9, 3))(y)

    def step(self, name: str, move: str, seed: int, x: Tensor, past: list[Tensor], xs: list[Tensor]) -> Tensor:
        c = x.shape[1]
        other = past[seed % len(past)]
        acts = [F.relu, torch.tanh, F.gelu, torch.sigmoid, F.hardswish, F.softplus, torch.exp]
        match move:
            case "conv":
                return self.make(name, nn.Conv2d(c, (8, 12, 6)[seed % 3], 1 + 2 * (seed % 2), padding=seed % 2))(x)
            case "grouped":
                g = next(n for n in (4, 3, 2, 1) if c % n == 0)
                return self.make(name, nn.Conv2d(c, g * (2 + seed % 2), 3, padding=1, groups=g))(x)
            case "depthwise":
                return self.make(name, nn.Conv2d(c, c * (1 + seed % 2), 3, padding=1, groups=c))(x)
            case "norm":
                return self.make(name, nn.BatchNorm2d(c, affine=seed % 3 > 0))(x)
            case "act":
                return torch.tanh(acts[seed % len(acts)](x)) if seed % 2 else acts[seed % len(acts)](torch.tanh(x))
            case "scale":
                self.make(name, nn.PReLU(c))
                return self.layers[name](x) * 0.5 + (seed % 2)
            case "residual":
                y = self.make(name, nn.Conv2d(c, other.shape[1], 1))(x)
                return y + other if seed % 2 else other - y
            case "concat":
                return torch.cat([x, other], 1) if seed % 2 else torch.cat([other, x, other], 1)
            case "split":
                n = 2 + seed % 2
                parts = torch.chunk(x, n, 1) if c >= n else (x,)
                return parts[seed % len(parts)] * 1.0 if seed % 4 else torch.cat(parts[::-1], 1)
            case "slice":
                return x[:, seed % (c - 1) : c] if c > 3 else x
            case "pad":
                return F.pad(x, (0, 0, 0, 0, seed % 3, seed % 2), value=float(seed % 2))
            case "shuffle":
                if c % 2:
                    return x
                return x.view(x.shape[0], 2, c // 2, 6, 6).transpose(1, 2).reshape(x.shape[0], c, 6, 6)
            case "gate":
                pooled = self.make(name, nn.Linear(c, c))(x.mean((2, 3)))
                return x * torch.sigmoid(pooled)[:, :, None, None]
            case "pool":
                return F.max_pool2d(x, 3, 1, 1) if seed % 2 else F.avg_pool2d(x, 3, 1, 1)
            case "shared":
                y = self.make(name, nn.Conv2d(c, c, 1))(x)
                return self.layers[name](F.relu(y))
            case "input":
                return x + self.make(name, nn.Conv2d(3, c, 1))(xs[-1])
            case "mean_gate":
                return x * torch.sigmoid(x.mean(1, keepdim=True)) if seed % 2 else x * x.sum(1, keepdim=True)
            case "select":
                return x * x[:, seed % c].unsqueeze(1)
            case "stack":
                return torch.stack([x, torch.tanh(x)], 2).flatten(1, 2) if c < 40 else x
            case "expand":
                return x + x[:, :1].expand(-1, c, -1, -1)
        raise ValueError(move)


programs = st.lists(st.tuples(st.sampled_from(MOVES), st.integers(0, 11)), min_size=1, max_size=7)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(programs, st.integers(1, 2), st.randoms(use_true_random=False))
def test_cut_equals_masked(moves: list[tuple[str, int]], inputs: int, chance: random.Random) -> None:
    model = RandomNet(moves, inputs).eval()
    example = tuple(torch.randn(3, 3, 6, 6) for _ in range(inputs))
    network = capture(model, example)
    assert torch.equal(model(*example), network(*example))
    groups = [group for group in network.groups if group.exact]
    assert "layers.head1" in {group.name for group in groups}
    kept = {g.name: chance.sample(range(g.width), chance.randint(1, g.width)) for g in groups}
    proof = verify(network, kept)
    assert proof.exact, (proof, kept)
    assert torch.equal(cut(network, {})(*example), network(*example))
