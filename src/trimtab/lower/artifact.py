"""What the user ships, as something to be called: torch tensors in, torch tensors out, executed by its runtime."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from torch import Tensor
from torch.utils import _pytree as pytree

from trimtab.plan import Target, Timeline
from trimtab.tasks.task import Inputs


class Artifact(ABC):
    """A file written for a target. `artifact(*inputs)` takes what the network took and gives what it gave.

    `origins` maps names in the file to what they were called in the network; empty for a file from elsewhere.
    A runtime's own class says how to `execute`, and who does.
    """

    def __init__(
        self,
        path: Path,
        target: Target,
        *,
        restore: Callable[[list[Tensor]], Any] | None = None,
        origins: Mapping[str, str] | None = None,
        threads: int | None = None,
    ) -> None:
        self.path, self.target = Path(path), target
        self.threads = threads or target.threads
        self.origins = dict(origins or {})
        self._restore = restore

    @abstractmethod
    def execute(self, inputs: Sequence[Tensor], named: Mapping[str, Tensor]) -> list[Tensor]:
        """The outputs, flat, for one batch: inputs by position, or all by name."""

    @property
    @abstractmethod
    def runtime(self) -> str:
        """Name and version."""

    @property
    def executed_on(self) -> str:
        """Runtime, device and number of threads."""
        return f"{self.runtime}, CPU, {self.threads} thread(s)"

    @property
    def file_bytes(self) -> int:
        """Bytes of all that the runtime loads: the one file."""
        return self.path.stat().st_size

    def with_threads(self, threads: int) -> Self:
        """The same file, executed with another number of threads."""
        return type(self)(self.path, self.target, restore=self._restore, origins=self.origins, threads=threads)

    def timeline(self, inputs: Inputs, *, seconds: float = 1.0) -> Timeline | None:
        """Where a run on one batch spends its time, by the runtime's own profiler; None where that cannot be read."""
        return None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run one batch. Keyword inputs go by name, others by position."""
        outputs = self.execute(pytree.tree_leaves(args), kwargs)
        if self._restore is not None:
            return self._restore(outputs)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)


def by_name(names: Sequence[str], inputs: Sequence[Tensor], named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What to feed to a runtime that calls its inputs `names`. Raises: ValueError for too many or too few."""
    return dict(named) if named else dict(zip(names, inputs, strict=True))
