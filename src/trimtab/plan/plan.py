"""The Plan: everything that will be done to a network, as data."""

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Literal, Protocol

from pydantic import Field, model_validator

from trimtab.errors import ConfigError
from trimtab.plan.record import Record
from trimtab.plan.scheme import PER_CHANNEL, PER_TENSOR, Scheme, Sparsity

Solver = Literal[
    "nearest",
    "least_squares",
    "gptq",
    "coordinate_descent",
    "adaround",
    "rate_distortion",
    "block",
    "joint",
    "sparsegpt",
    "sweep",
]
"""How codes are found without training, and by the last four also which weights leave."""


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

    `None` for `weight` and `activation` leaves the layer in float. `criterion` chooses the entries that `sparsity`
    removes. `ranges` says how the range of activations is read from calibration data (the registry RANGES), `learned`
    how training moves it afterwards. `price` is for the solver "rate_distortion": the relative squared error of the
    layer's output that one bit of an entropy-coded file may cost. Of two layers that share a tensor, the one that comes
    first in the graph decides.
    """

    layer: str
    sparsity: Sparsity | None = None
    criterion: str = "magnitude"
    weight: Scheme | None = None
    activation: Scheme | None = None
    ranges: str = "minmax"
    learned: Literal["lsq", "lsq_plus", "pact"] = "lsq"
    solver: Solver = "nearest"
    price: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _rate_distortion_has_what_it_needs(self) -> "LayerDecision":
        if (self.price > 0) != (self.solver == "rate_distortion"):
            raise ValueError(
                f"{self.layer}: solver 'rate_distortion' needs a price above 0 (1e-7), and no other takes one; "
                f"got solver {self.solver!r} and price {self.price:g}"
            )
        if self.price == 0:
            return self
        if self.sparsity is not None:
            raise ValueError(f"{self.layer}: solver 'rate_distortion' finds zeros itself; leave out the sparsity")
        if (
            self.weight is None
            or self.weight.grid != "symmetric"
            or self.weight.granularity not in (PER_CHANNEL, PER_TENSOR)
        ):
            raise ValueError(
                f"{self.layer}: solver 'rate_distortion' chooses the steps of a symmetric grid, one a channel or one a "
                f"tensor; got {self.weight}; give such a scheme for the weight"
            )
        return self


class _Group(Protocol):
    """A channel group, as far as a plan needs to know it."""

    @property
    def name(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def multiple_of(self) -> int: ...
    @property
    def at_least(self) -> int: ...


class _Network(Protocol):
    @property
    def groups(self) -> tuple[_Group, ...]: ...
    @property
    def products(self) -> tuple[tuple[tuple[str, ...], ...], ...]: ...
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

    @property
    def sparse(self) -> bool:
        """Whether weights inside a layer are zero."""
        return any(decision.sparsity is not None for decision in self.layers)

    @property
    def thins(self) -> bool:
        """Whether channels, branches or weights go, after which batch norm's statistics are others."""
        return bool(self.groups) or any(decision.removed for decision in self.branches) or self.sparse

    @classmethod
    def uniform(cls, network: _Network, keep: float = 0.5, target: str = "onnxruntime") -> "Plan":
        """A cut without data: every dimension keeps the share `keep` (above 0, at most 1) of its units, evenly spread.

        The number kept is rounded to the group's multiple (the target's is not looked up), and is at least one of it,
        and as many as the group must keep.
        Of a dimension that is a product (heads × what a head holds) only one factor is cut, so that shares do not
        compound: the one whose share comes nearest to `keep`, of equals the outermost.
        Raises: ConfigError for another `keep`.
        """
        if not 0 < keep <= 1:
            raise ConfigError(f"uniform: keep must be above 0 and at most 1, got {keep!r}; give a share such as 0.5")
        kept = {group.name: _evenly(group, keep) for group in network.groups}
        width = {group.name: group.width for group in network.groups}
        whole = left_whole(network.products, lambda name: len(kept[name]) / width[name], keep)
        return cls(
            fingerprint=network.fingerprint,
            target=target,
            groups=tuple(
                GroupDecision(group=name, kept=units)
                for name, units in kept.items()
                if name not in whole and len(units) < width[name]
            ),
        )


def _evenly(group: _Group, keep: float) -> tuple[int, ...]:
    """Unit indices in the middles of equal stretches of the group."""
    step = group.multiple_of
    count = max(round(group.width * keep / step), 1, -(-group.at_least // step)) * step
    count = min(count, group.width // step * step)
    return tuple((2 * i + 1) * group.width // (2 * count) for i in range(count))


def left_whole(products: Iterable[Sequence[tuple[str, ...]]], share: Callable[[str], float], keep: float) -> set[str]:
    """Groups that stay whole so that of every product one factor is cut.

    That is one chosen in an earlier product, else the one whose share comes nearest to `keep`, of equals the outermost.
    """
    chosen: set[tuple[str, ...]] = set()
    whole: set[str] = set()

    def order(factor: tuple[str, ...]) -> tuple[bool, float]:
        return factor not in chosen, max(abs(share(name) - keep) for name in factor)

    for product in products:
        factors = [factor for factor in product if not whole.issuperset(factor)]
        if len(factors) > 1:
            best = min(factors, key=order)
            chosen.add(best)
            whole.update(name for factor in factors if factor != best for name in factor)
    return whole
