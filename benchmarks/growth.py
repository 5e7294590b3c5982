"""Nothing hangs: how analysis, groups and cut grow with the number of nodes of a graph."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import harness
import trimtab as tt
from harness import Claim
from trimtab.graph import Network, cut

PROTOCOL = """\
Stacks of 16 and of 256 blocks (quick: 64). Seconds a node of the graph, without torch.export: shapes, axes, groups and
branches, and a cut to half of every dimension; medians of five runs in turn, one thread. growth: seconds a node of the
deep stack over those of the shallow one; 1 is linear.
"""
RUNS = 5


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Conv2d(16, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(F.relu(self.norm(self.a(x))))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.mlp = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(self.norm(x)).view(n, t, 3, 4, c // 4).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, c))
        return x + self.mlp(x)


class Dense(nn.Module):
    """Concatenates four at a time, so that channels do not grow with the depth."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(8 + 4 * i, 4, 3, padding=1) for i in range(4))
        self.down = nn.Conv2d(24, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, F.relu(layer(x))], 1)
        return self.down(x)


STACKS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "residual": (Residual, (3, 8, 4, 4)),
    "attention": (Attention, (3, 5, 16)),
    "dense": (Dense, (3, 8, 4, 4)),
}


def seconds_of(network: Network) -> tuple[float, float]:
    """Seconds to find what can be cut, and to cut half of it."""
    network.refresh()
    started = time.perf_counter()
    plan = tt.Plan.uniform(network)
    network.branches  # noqa: B018  found when first asked for
    found = time.perf_counter()
    cut(network, {decision.group: decision.kept for decision in plan.groups})
    return found - started, time.perf_counter() - found


def measure(name: str, depths: tuple[int, int]) -> tuple[list[dict[str, Any]], Claim]:
    """Rows for both depths, and the claim about them."""
    make, shape = STACKS[name]
    networks = [tt.capture(nn.Sequential(*(make() for _ in range(depth))), torch.randn(shape)) for depth in depths]
    times: list[list[tuple[float, float]]] = [[], []]
    for _ in range(RUNS):
        for network, found in zip(networks, times, strict=True):
            found.append(seconds_of(network))
    rows = []
    for depth, network, found in zip(depths, networks, times, strict=True):
        nodes = len(network.module.graph.nodes)
        analysis, cutting = (statistics.median(column) for column in zip(*found, strict=True))
        row = {"stack": name, "blocks": depth, "nodes": nodes, "groups": len(network.groups)}
        rows.append(
            row
            | {"analysis_seconds": analysis, "cut_seconds": cutting, "us_a_node": (analysis + cutting) / nodes * 1e6}
        )
    growth = rows[1]["us_a_node"] / rows[0]["us_a_node"]
    return rows, Claim(f"{name}: growth of the seconds a node", 2.0, growth, "ratio")


def main() -> None:
    options = harness.arguments(__doc__ or "")
    torch.set_num_threads(1)
    measured = [measure(name, (16, 64 if options.quick else 256)) for name in STACKS]
    harness.finish(options, PROTOCOL, [row for rows, _ in measured for row in rows], [claim for _, claim in measured])


if __name__ == "__main__":
    main()
