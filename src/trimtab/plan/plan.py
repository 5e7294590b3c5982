"""The Plan: everything that will be done to a network, as data."""

import re
from collections.abc import Iterable
from typing import Annotated, Literal, Protocol

from pydantic import Field, model_validator

from trimtab.errors import ConfigError
from trimtab.plan.record import Record
from trimtab.plan.scheme import Scheme, Sparsity


class GroupDecision(Record):
    """A channel group keeps these units (sorted indices) and loses the others, physically."""

    group: str
    kept: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _sorted_and_distinct(self) -> "GroupDecision":
        if any(b <= a for a, b in zip(self.kept, self.kept[1:], strict=False)):
            raise ValueError(f"group {self.group!r}: kept must be sorted and distinct")
        return self


class BranchDecision(Record):
    """A residual branch is removed, so that only its shortcut is left."""

    branch: str
    removed: bool


class LayerDecision(Record):
    """How one layer's weight is thinned and stored, and how the values that it reads and writes are stored.

    `None` for `weight` and `activation` leaves the layer in float.
    """

    layer: str
    sparsity: Sparsity | None = None
    weight: Scheme | None = None
    activation: Scheme | None = None
    solver: Literal["nearest"] = "nearest"


class _Group(Protocol):
    """A channel group, as far as a plan needs to know it."""

    @property
    def name(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def multiple_of(self) -> int: ...


class _Network(Protocol):
    @property
    def groups(self) -> tuple[_Group, ...]: ...
    @property
    def fingerprint(self) -> str: ...


class Plan(Record):
    """What to do to the network whose fingerprint is named. Written by search or by hand; applied deterministically."""

    schema_version: Annotated[Literal[1], Field(alias="schema")] = 1
    fingerprint: str
    target: str
    seed: int = 0
    groups: tuple[GroupDecision, ...] = ()
    branches: tuple[BranchDecision, ...] = ()
    layers: tuple[LayerDecision, ...] = ()

    model_config = Record.model_config | {"serialize_by_alias": True}

    @model_validator(mode="after")
    def _one_decision_each(self) -> "Plan":
        for kind, names in (
            ("group", [d.group for d in self.groups]),
            ("branch", [d.branch for d in self.branches]),
            ("layer", [d.layer for d in self.layers]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{kind} {twice[0]!r} is decided more than once")
        return self

    @classmethod
    def uniform(cls, network: _Network, keep: float = 0.5, target: str = "onnxruntime") -> "Plan":
        """A cut without data: every dimension keeps the share `keep` (above 0, at most 1) of its units, evenly spread.

        The number kept is rounded to the group's multiple (the target's is not looked up), and is at least one of it.
        Of a dimension that is a product (groups `name/0`, `name/1`, …) only the factor with most units is cut, so that
        shares do not compound.
        Raises: ConfigError for another `keep`.
        """
        if not 0 < keep <= 1:
            raise ConfigError(f"uniform: keep must be above 0 and at most 1, got {keep!r}; give a share such as 0.5")
        groups = [(group, _evenly(group, keep)) for group in _one_factor_each(network.groups)]
        return cls(
            fingerprint=network.fingerprint,
            target=target,
            groups=tuple(
                GroupDecision(group=group.name, kept=kept) for group, kept in groups if len(kept) < group.width
            ),
        )


def _evenly(group: _Group, keep: float) -> tuple[int, ...]:
    """Unit indices in the middles of equal stretches of the group."""
    step = group.multiple_of
    count = max(round(group.width * keep / step), 1) * step
    count = min(count, group.width // step * step)
    return tuple((2 * i + 1) * group.width // (2 * count) for i in range(count))


_FACTOR = re.compile(r"(.*)/(\d+)((?:\[\d+:\d+\])?(?:@\d+)?)")


def _one_factor_each(groups: Iterable[_Group]) -> list[_Group]:
    """The groups, of every product only those of the factor that has most units (the outermost of equals)."""
    units: dict[str, dict[int, int]] = {}
    factors = [(group, _FACTOR.fullmatch(group.name)) for group in groups]
    for group, match in factors:
        if match is not None:
            widths = units.setdefault(match[1], {})
            widths[int(match[2])] = widths.get(int(match[2]), 0) + group.width
    widest = {parent: max(sorted(widths), key=widths.__getitem__) for parent, widths in units.items()}
    return [group for group, match in factors if match is None or int(match[2]) == widest[match[1]]]
