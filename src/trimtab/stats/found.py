"""What a pass over the data found: per statistic, by group, by parameter and by branch."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from trimtab.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Found:
    """One statistic. Its class says what the numbers are; it leaves empty what it is not defined for.

    `units` maps a group's name to [width] or [batches, width], `entries` a parameter's name to its shape (or one that
    broadcasts to it), `branches` a branch's name to [batches] or [], `grams` a parameter's name to [groups, n, n], n
    the entries of one of its rows. All are float64, on the CPU.
    """

    units: Mapping[str, Tensor] = field(default_factory=dict)
    entries: Mapping[str, Tensor] = field(default_factory=dict)
    branches: Mapping[str, Tensor] = field(default_factory=dict)
    grams: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Stats:
    """What one pass over `batches` batches found, by the name of the statistic (a key of STATISTICS)."""

    batches: int = 0
    found: Mapping[str, Found] = field(default_factory=dict)

    def units(self, statistic: str, group: str) -> Tensor:
        """A statistic of a group's units. Raises: ConfigError when it was not collected, or not for this group."""
        return _of(self._collected(statistic, group).units, statistic, group)

    def entries(self, statistic: str, parameter: str) -> Tensor:
        """A statistic of a parameter's entries. Raises: ConfigError as `units`."""
        return _of(self._collected(statistic, parameter).entries, statistic, parameter)

    def branch(self, statistic: str, branch: str) -> Tensor:
        """A statistic of a residual branch. Raises: ConfigError as `units`."""
        return _of(self._collected(statistic, branch).branches, statistic, branch)

    def gram(self, statistic: str, parameter: str) -> Tensor:
        """A statistic of what a weight is multiplied with. Raises: ConfigError as `units`."""
        return _of(self._collected(statistic, parameter).grams, statistic, parameter)

    def _collected(self, statistic: str, where: str) -> Found:
        if statistic not in self.found:
            raise ConfigError(
                f"{where}: the statistic {statistic!r} was not collected; collect(…, needs={{{statistic!r}}})"
            )
        return self.found[statistic]


def _of(known: Mapping[str, Tensor], statistic: str, where: str) -> Tensor:
    if where not in known:
        raise ConfigError(
            f"{where}: the statistic {statistic!r} does not see it (no operator that it knows reads or makes it, "
            "or the statistics are another network's); choose another criterion, such as 'taylor' or 'magnitude'"
        )
    return known[where]
