"""TensorBoard events of a recovery: one value of each curve an epoch."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trimtab.errors import MissingPackageError
from trimtab.graph import Network
from trimtab.recover.checkpoint import Entry


def open_events(folder: Path | None, *, epochs_done: int) -> Any:
    """A writer that goes on after `epochs_done`, or None without a folder.

    Raises: MissingPackageError without TensorBoard.
    """
    if folder is None:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter  # an extra, and slow to import
    except ImportError as error:
        raise MissingPackageError(
            "recover: events needs the package 'tensorboard'; pip install 'trimtab[tensorboard]'"
        ) from error
    return SummaryWriter(str(folder), purge_step=epochs_done + 1)


def recording() -> bool:
    """Whether events can be written."""
    return find_spec("tensorboard") is not None


def write(writer: Any, entry: Entry, network: Network, strength: float | None) -> None:
    """Loss, metric and learning rate of a finished epoch, the share of zeros, and the strength of the penalty."""
    curves = {
        "loss/train": entry.train_loss,
        "metric/val": entry.metric,
        "learning_rate": entry.learning_rate,
        "sparsity": zeros(network),
        "penalty/strength": strength,
    }
    for name, value in curves.items():
        if value is not None:
            writer.add_scalar(name, value, entry.epoch)
    writer.flush()


def zeros(network: Network) -> float:
    """The share of zeros among the weights of two or more dimensions."""
    weights = [parameter for parameter in network.parameters() if parameter.dim() > 1]
    total = sum(weight.numel() for weight in weights)
    return sum(int((weight == 0).sum()) for weight in weights) / max(1, total)
