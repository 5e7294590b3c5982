"""The same cut of a torchvision classifier by Torch-Pruning. `python -m zoo.torch_pruning_peer NAME` prints JSON.

It is told what its documentation asks for: which layer is the classifier (every layer that makes the 1000 outputs).
A network counts as cut when it still runs and gives outputs of the same shape with fewer parameters; nothing is
compared with a masked original.
"""

import json
import sys
import time
from typing import Any

import torch
import torch_pruning as tp
from torch import nn

from zoo import networks
from zoo.one import KEEP, SEED, THREADS

CLASSES = 1000


def row(model: nn.Module, example: torch.Tensor) -> dict[str, Any]:
    started = time.perf_counter()
    model.eval()
    before = sum(parameter.numel() for parameter in model.parameters())
    kinds = (nn.Linear, nn.Conv2d)
    ignored = [m for m in model.modules() if isinstance(m, kinds) and m.weight.shape[0] == CLASSES]
    importance = tp.importance.MagnitudeImportance(p=2)
    pruner = tp.pruner.MagnitudePruner(
        model, example, importance=importance, pruning_ratio=1 - KEEP, ignored_layers=ignored
    )
    pruner.step()
    seconds = time.perf_counter() - started
    with torch.no_grad():
        shape = tuple(model(example).shape)
    after = sum(parameter.numel() for parameter in model.parameters())
    works = shape == (example.shape[0], CLASSES) and after < before
    return {"cut": works, "parameters_left": after / before, "seconds": seconds}


def main() -> None:
    torch.set_num_threads(THREADS)
    torch.manual_seed(SEED)
    print(json.dumps(row(*networks("classification")[sys.argv[1]]())))


if __name__ == "__main__":
    main()
