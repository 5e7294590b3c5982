"""One network: captured, cut to half of every dimension, verified. `python -m zoo.one FAMILY NAME` prints JSON."""

import json
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import trimtab as tt
from trimtab.graph import Network, cut
from trimtab.graph.surgery import masks
from trimtab.graph.values import set_argument
from trimtab.measure import macs, prunable
from trimtab.tasks.task import call
from zoo import networks

KEEP = 0.5
THREADS = 2
SEED = 0


def row(model: nn.Module, example: Any) -> dict[str, Any]:
    """What happened to one network: shares left, the proof, seconds, memory."""
    started = time.perf_counter()
    with timed_export() as export:
        network = tt.capture(model, example)
    network.groups  # noqa: B018  the analysis runs when it is first asked for
    analysed = time.perf_counter()
    plan = tt.Plan.uniform(network, keep=KEEP)
    kept = {decision.group: decision.kept for decision in plan.groups}
    small = cut(network, kept)
    done = time.perf_counter()
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    share = prunable(network)
    found = {
        "captured": True,
        "groups": len(network.groups),
        "frozen": len(network.frozen),
        "prunable_parameters": share.parameters,
        "prunable_macs": share.macs,
        "parameters": size(network),
        "parameters_left": size(small) / size(network),
        "macs_left": macs(small) / macs(network),
        "export_seconds": export[0],
        "capture_seconds": analysed - started - export[0],
        "cut_seconds": done - analysed,
        "peak_bytes": peak_bytes,
    }
    del model
    settle(network, kept)
    small = cut(network, kept)
    proving = time.perf_counter()
    found["response"] = response(small)
    del small
    proof = tt.verify(network, plan)
    return found | {
        "exact": proof.exact,
        "reason": proof.reason,
        "max_abs_diff": proof.max_abs_diff,
        "verify_seconds": time.perf_counter() - proving,
    }


def size(network: Network) -> int:
    """Parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


@contextmanager
def timed_export() -> Iterator[list[float]]:
    """Seconds that torch.export takes meanwhile, as the only item of a list."""
    export, seconds = torch.export.export, [0.0]

    def timed(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return export(*args, **kwargs)
        finally:
            seconds[0] += time.perf_counter() - started

    torch.export.export = timed
    try:
        yield seconds
    finally:
        torch.export.export = export


@torch.no_grad()
def randomize(model: nn.Module) -> None:
    """Draw parameters so that half of the units carry the signal through, and nothing is left at ones or zeros.

    Norms are damped: at full strength a deep network is chaotic, and magnifies rounding as much as errors.
    """
    for parameter in model.parameters():
        if parameter.dim() < 2:
            parameter *= 0.5
            parameter += torch.randn_like(parameter) * 0.1
        else:
            fan_in = parameter[0].numel()
            parameter.normal_(std=(2 / (fan_in * KEEP)) ** 0.5)


@torch.no_grad()
def settle(network: Network, kept: Mapping[str, Sequence[int]]) -> None:
    """Give batch norms the statistics of the masked network on the example, as training it would.

    Else signals fade or grow from layer to layer.
    """
    masked = network.clone()
    for name, mask in masks(network, kept).items():
        masked.module.get_parameter(name).mul_(mask)
    for node in masked.module.graph.find_nodes(op="call_function", target=torch.ops.aten.batch_norm.default):
        set_argument(node, "training", True)
        set_argument(node, "momentum", 0.9)
    masked.module.recompile()
    call(masked, masked.example)
    for (_, buffer), (_, found) in zip(network.named_buffers(), masked.named_buffers(), strict=True):
        buffer.copy_(found)


@torch.no_grad()
def response(network: Network) -> float:
    """Largest difference of an output between rows of the example, relative to the largest output."""
    outputs = [leaf for leaf in pytree.tree_leaves(call(network, network.example)) if isinstance(leaf, Tensor)]
    return max(float((leaf - leaf[:1]).abs().max() / leaf.abs().max()) for leaf in outputs)


def main() -> None:
    family, name = sys.argv[1:]
    torch.set_num_threads(THREADS)
    torch.manual_seed(SEED)
    model, example = networks(family)[name]()
    randomize(model)
    print(json.dumps(row(model, example)))


if __name__ == "__main__":
    main()
