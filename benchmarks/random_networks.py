"""Random networks, each cut at random widths, against the masked original: 1000 of them (`--quick`: 20)."""

import random
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

import harness
import trimtab as tt
from harness import Claim
from trimtab.graph import Network, verify

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "graph"))

from random_nets import random_network

PROTOCOL = """\
Networks of seeds 0, 1, …: one to eight random moves (residuals, concatenations, splits, groups, attention, reshapes,
shared weights, …), up to two images or a sequence in, nested outputs. Every group that says it is exact keeps random
units of a random number, all at once. max_abs_diff: float64, cut against masked, relative to the largest output or 1.
"""
TOLERANCE = 1e-9


def widths(network: Network, seed: int) -> dict[str, list[int]]:
    """Random units of a random number for every exact group, as many as it needs."""
    draw = random.Random(seed)
    kept = {}
    for group in filter(lambda group: group.exact, network.groups):
        step = group.multiple_of
        count = draw.randint(group.least // step, group.width // step) * step
        kept[group.name] = draw.sample(range(group.width), count)
    return kept


def row(seed: int) -> dict[str, Any]:
    """One network."""
    torch.manual_seed(seed)
    started = time.perf_counter()
    network = tt.capture(*random_network(seed))
    kept = widths(network, seed)
    proof = verify(network, kept)
    return {
        "seed": seed,
        "nodes": len(network.module.graph.nodes),
        "groups": len(network.groups),
        "exact_groups": len(kept),
        "exact": proof.exact,
        "reason": proof.reason,
        "max_abs_diff": proof.max_abs_diff,
        "seconds": time.perf_counter() - started,
    }


def main() -> None:
    options = harness.arguments(__doc__ or "")
    torch.set_num_threads(1)
    rows = [row(seed) for seed in track(range(20 if options.quick else 1000), "networks")]
    claims = [
        Claim("networks whose exact groups are proved", len(rows), sum(row["exact"] for row in rows), "networks", True),
        Claim("largest difference", TOLERANCE, max(row["max_abs_diff"] for row in rows), "relative"),
    ]
    harness.finish(options, PROTOCOL, rows, claims)


if __name__ == "__main__":
    main()
