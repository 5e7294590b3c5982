"""The time that a training is given: a schedule of more epochs than fit into it is gone through faster."""

import time

from trimtab.recover.distributed import Crew

_SLACK = 0.02
"""By this share of the schedule the epochs may be late before the clock takes over: where there is time enough, results
do not depend on it."""


class Clock:
    """Counts from now to `deadline` (`time.monotonic()`; None: there is none), for a schedule of which `share` is done.

    Without it a training that time cuts short would end at a high learning rate, its ranges not yet frozen.
    """

    def __init__(self, deadline: float | None, crew: Crew, *, share: float = 0.0) -> None:
        self._deadline, self._crew, self._share, self._begun = deadline, crew, share, time.monotonic()
        self._late = False

    @property
    def up(self) -> bool:
        """Whether there is no time left."""
        return self._look() >= 1.0

    def due(self, done: float) -> float | None:
        """The share of the schedule that is due by now, where `done` (a share too) is late. None when time is up."""
        share = self._look()
        self._late |= share > done + _SLACK
        if share >= 1.0:
            return None
        return share if self._late else 0.0

    def _look(self) -> float:
        """All processes see the first one's clock."""
        if self._deadline is None:
            return 0.0
        now = time.monotonic()
        used = 1.0 if now >= self._deadline else (now - self._begun) / (self._deadline - self._begun)
        return self._crew.agreed(self._share + (1 - self._share) * used)
