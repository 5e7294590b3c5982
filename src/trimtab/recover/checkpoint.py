"""The training loop's state at the end of an epoch, on disk: tensors as safetensors, the rest as JSON in its header."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from trimtab.errors import RunError
from trimtab.plan import Record
from trimtab.run import atomic_write

_KEY = "trimtab.recover"


class Entry(Record):
    """One line of a recovery's history. `epoch` 0 is the network as it came; `train_loss` is a mean over batches.

    `note` is empty for a finished epoch, or says what happened.
    """

    epoch: int
    train_loss: float | None = None
    metric: float | None = None
    learning_rate: float
    note: str = ""


class Progress(Record):
    """How far training has come. `setbacks` counts losses that were not finite; each halved the learning rate.

    `best_metric` is None until there is a network that may be delivered; `stale` counts the epochs since it improved.
    `works`: whether the penalty did, in that network.
    """

    epochs_done: int = 0
    best_metric: float | None = None
    works: bool = True
    stale: int = 0
    setbacks: int = 0
    history: tuple[Entry, ...] = ()


@dataclass(frozen=True, kw_only=True)
class State:
    """Everything needed to go on after an epoch: progress, and copies of tensors by part and name.

    Parts are what `snapshot.taken` gives, and what of them was best, under "best" (weights) and "best_pruner".
    """

    progress: Progress
    parts: Mapping[str, Mapping[str, Tensor]]

    def part(self, name: str) -> Mapping[str, Tensor]:
        """The tensors of a part; none where it is empty."""
        return self.parts.get(name, {})


class _Header(Record):
    identity: dict[str, str]
    progress: Progress


def save(path: Path, state: State, identity: Mapping[str, str]) -> None:
    """Replace `path` atomically. `identity` says which run this is; only that run can load it."""
    tensors = {
        f"{part}/{name}": tensor.detach().contiguous().clone()
        for part, named in state.parts.items()
        for name, tensor in named.items()
    }
    header = _Header(identity=dict(identity), progress=state.progress)
    atomic_write(path, safetensors.torch.save(tensors, metadata={_KEY: header.to_json()}))


def load(path: Path, identity: Mapping[str, str]) -> State:
    """Raises: RunError for a file that is damaged, is no checkpoint, or is of a run with another identity."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise RunError(f"{path}: not a readable checkpoint ({error}); delete it to start over") from error
    if _KEY not in metadata:
        raise RunError(f"{path}: not a checkpoint of recover; give another path")
    header = _Header.from_json(metadata[_KEY], where=str(path))
    for key, wanted in identity.items():
        came = header.identity.get(key)
        if came != wanted:
            raise RunError(
                f"{path}: checkpoint of another run, its {key} is {came}, not {wanted}; delete it or give another path"
            )
    parts: dict[str, dict[str, Tensor]] = {}
    for full_name, tensor in tensors.items():
        part, name = full_name.split("/", 1)
        parts.setdefault(part, {})[name] = tensor
    return State(progress=header.progress, parts=parts)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, types, shapes and values."""
    sha = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        sha.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        sha.update(flat.view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
