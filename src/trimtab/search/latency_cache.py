"""Times of kernels, kept in the user's cache folder: the same kernel on the same machine is timed once."""

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from pydantic import Field

from trimtab.errors import ConfigError
from trimtab.measure import cpu
from trimtab.plan import Record, Target
from trimtab.run import atomic_write


class Timer(Record):
    """What a kernel's time depends on besides the kernel. `runtime` is its name and version."""

    cpu: str
    runtime: str
    batch: int
    threads: int

    @classmethod
    def here(cls, runtime: str, target: Target) -> "Timer":
        """On this machine, as `target` is run."""
        return cls(cpu=cpu().name, runtime=runtime, batch=target.batch, threads=target.threads)

    @property
    def file(self) -> Path:
        """Where its times are kept."""
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return folder / "trimtab" / "latency" / f"{hashlib.sha256(self.to_json().encode()).hexdigest()[:16]}.json"


class KernelTimes(Record):
    """A cache file: milliseconds by kernel."""

    timer: Timer
    times: dict[str, Annotated[float, Field(gt=0)]]


def known_times(timer: Timer) -> dict[str, float]:
    """What was timed before; nothing where the file is missing or damaged."""
    with suppress(OSError, ConfigError):
        return KernelTimes.from_json(timer.file.read_bytes(), where=str(timer.file)).times
    return {}


def keep_times(timer: Timer, times: Mapping[str, float]) -> None:
    """Add them to the file; where nothing can be written, they are timed again the next time."""
    with suppress(OSError):
        kept = KernelTimes(timer=timer, times={**known_times(timer), **times})
        atomic_write(timer.file, kept.to_json())
