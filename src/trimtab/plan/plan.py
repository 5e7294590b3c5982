"""The Plan: everything that will be done to a network, as data."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

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
