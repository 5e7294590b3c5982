"""What the examples share: where the data are, batches, accuracy, and a baseline that is trained once and kept.

`TRIMTAB_DATA` names the folder of the data sets, one folder each; docs/data.md says where they come from and how they
are laid out. Baselines are kept in `runs/baselines`, beside the runs.
"""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trimtab.errors import TaskError

BASELINES = Path("runs/baselines")
Model = TypeVar("Model", bound=nn.Module)
Loss = Callable[[Any, Any], Tensor]


def find(variable: str, name: str) -> Path:
    """The file `name` in the folder that the environment variable names."""
    if variable not in os.environ:
        raise TaskError(f"set {variable} to the folder that holds {name}")
    path = Path(os.environ[variable], name)
    if not path.is_file():
        raise TaskError(f"no file {path}; set {variable} to the folder that holds {name}")
    return path


def arrays(name: str) -> dict[str, np.ndarray]:
    """The arrays of a `.npz` in the folder of data."""
    with np.load(find("TRIMTAB_DATA", name), allow_pickle=False) as stored:
        return dict(stored)


class Batches:
    """A re-iterable of `(inputs, target)` from tensors whose rows belong together; several inputs make a tuple.

    `shuffle`: in random order from torch's global seed. `change` is applied to the inputs of each batch then.
    """

    def __init__(
        self, *tensors: Tensor, batch: int, shuffle: bool = False, change: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self.tensors, self.batch, self.shuffle, self.change = tensors, batch, shuffle, change

    def __len__(self) -> int:
        return -(-len(self.tensors[0]) // self.batch)

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        number = len(self.tensors[0])
        order = torch.randperm(number) if self.shuffle else torch.arange(number)
        for rows in order.split(self.batch):
            *inputs, target = (tensor[rows] for tensor in self.tensors)
            if self.shuffle and self.change is not None:
                inputs[0] = self.change(inputs[0])
            yield inputs[0] if len(inputs) == 1 else tuple(inputs), target


def accuracy(outputs: Tensor, labels: Tensor) -> float:
    """Fraction of rows whose largest output is the right class, 0..1."""
    return (outputs.argmax(-1) == labels).double().mean().item()


def baseline(
    name: str, make: Callable[[], nn.Module], train: Batches, loss: Loss, *, epochs: int, rate: float = 2e-3
) -> nn.Module:
    """A model as it comes from training: AdamW, one cycle of the learning rate, seed 0. Kept for the next time."""
    return kept(name, make, lambda model: _fit(model, train, loss, epochs=epochs, rate=rate))


def kept(name: str, make: Callable[[], Model], train: Callable[[Model], None]) -> Model:
    """What `make` gives, trained, in eval mode; its weights are written once, and read the next time.

    Raises: TaskError when what is kept is of another model.
    """
    path = BASELINES / f"{name}.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make()
        if not path.exists():
            train(model)
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{os.getpid()}")  # a process that is killed leaves no half of a file
            save_file({key: value.contiguous() for key, value in model.state_dict().items()}, part)
            part.replace(path)
    try:
        model.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise TaskError(f"{path} is of another model; delete it, and it is trained again") from error
    return model.eval()


def _fit(model: nn.Module, train: Batches, loss: Loss, *, epochs: int, rate: float) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * len(train))
    model.train()
    for epoch in range(epochs):
        total = 0.0
        for inputs, target in train:
            optimizer.zero_grad()
            value = loss(model(*inputs) if isinstance(inputs, tuple) else model(inputs), target)
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += value.item()
        print(f"baseline: epoch {epoch + 1} of {epochs}, loss {total / len(train):.4f}", file=sys.stderr, flush=True)
