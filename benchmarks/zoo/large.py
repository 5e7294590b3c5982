"""Eight billion parameters on the meta device: captured, grouped, cut and run. `python -m zoo.large` prints JSON."""

import json
import resource
import time

import torch

import trimtab as tt
from trimtab.graph import cut
from trimtab.tasks.task import call
from zoo.one import KEEP, SEED, THREADS, size
from zoo.transformers import qwen3_8b


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    torch.set_num_threads(THREADS)
    torch.manual_seed(SEED)
    model, example = qwen3_8b()
    started = time.perf_counter()
    network = tt.capture(model, example)
    captured = time.perf_counter()
    plan = tt.Plan.uniform(network, keep=KEEP)
    planned = time.perf_counter()
    small = cut(network, {decision.group: decision.kept for decision in plan.groups})
    done = time.perf_counter()
    call(small, small.example)
    found = {
        "parameters": size(network),
        "parameters_left": size(small) / size(network),
        "groups": len(network.groups),
        "capture_seconds": captured - started,
        "analysis_seconds": planned - captured,
        "cut_seconds": done - planned,
        "seconds": time.perf_counter() - started,
        "peak_bytes": peak_bytes(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
