"""Random networks, each cut at random widths. `python -m zoo.random_networks COUNT` prints JSON."""

import json
import random
import sys
import time
from pathlib import Path

import torch

import trimtab as tt
from trimtab.graph import Network, verify

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "graph"))

from random_nets import random_network

TOLERANCE = 1e-9


def widths(network: Network, seed: int) -> dict[str, list[int]]:
    """Random units of a random number for every exact group, as many as it needs."""
    draw = random.Random(seed)
    kept = {}
    for group in filter(lambda group: group.exact, network.groups):
        least = -(-group.at_least // group.multiple_of)
        count = draw.randint(least, group.width // group.multiple_of) * group.multiple_of
        kept[group.name] = draw.sample(range(group.width), count)
    return kept


def main() -> None:
    torch.set_num_threads(1)
    started = time.perf_counter()
    worst, proved, failed = 0.0, 0, []
    count = int(sys.argv[1])
    for seed in range(count):
        torch.manual_seed(seed)
        network = tt.capture(*random_network(seed))
        proof = verify(network, widths(network, seed))
        if proof.exact and proof.max_abs_diff <= TOLERANCE:
            proved += 1
        else:
            failed.append({"seed": seed, "reason": proof.reason})
        worst = max(worst, proof.max_abs_diff)
    seconds = time.perf_counter() - started
    print(json.dumps({"proved": proved, "max_abs_diff": worst, "failed": failed, "seconds": seconds}))


if __name__ == "__main__":
    main()
