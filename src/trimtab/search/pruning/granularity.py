"""Granularity by name: what a piece is, which subjects hold pieces, and the plan that removes some of them."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Protocol

from trimtab.errors import ConfigError
from trimtab.graph import Network
from trimtab.plan import Kernels, NofM, Plan, Sparsity, Target, Tiles, Weights
from trimtab.search.pruning.subject import Subject
from trimtab.stats import Stats

NAMES = "channels, branches, weights, kernels, tiles such as '4x4' (out × in), or kept:of such as '2:4'"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The network, the target, and what scores pieces. `leave` names subjects that lose nothing."""

    network: Network
    target: Target
    criterion: str = "magnitude"
    stats: Stats | None = None
    leave: frozenset[str] = frozenset()
    seed: int = 0

    def plan(self, **decisions: object) -> Plan:
        """A plan for this network."""
        header = {"fingerprint": self.network.fingerprint, "target": self.target.name, "seed": self.seed}
        return Plan.model_validate({**header, **decisions})

    def check_leave(self, known: Iterable[str], what: str) -> None:
        """Raises: ConfigError when a name to leave alone is not among these."""
        names = list(known)
        for name in sorted(self.leave.difference(names)):
            near = get_close_matches(name, names, n=3, cutoff=0.4) or names[:5]
            raise ConfigError(f"prune: leave: unknown {what} {name!r}; near matches: {', '.join(near) or 'none'}")


class Granularity(Protocol):
    """What a piece is: a channel, a branch, or entries of a weight. `criterion` is "" where none orders the pieces."""

    @property
    def asked(self) -> Asked: ...
    @property
    def criterion(self) -> str: ...
    @property
    def pieces(self) -> str: ...

    def subjects(self, keep: float | None = None) -> list[Subject]:
        """What loses pieces, about so that the share `keep` is left; None: everything that can lose some."""
        ...

    def plan(self, subjects: Sequence[Subject], removed: Mapping[str, int]) -> Plan:
        """The plan that takes so many pieces of each subject, those of the lowest scores."""
        ...

    def layer_macs(self, removed: Mapping[str, int]) -> int:
        """Multiply-accumulates that are left in convolutions and linear layers, counted without making a network."""
        ...

    def without(self, subjects: Sequence[Subject], removed: Mapping[str, int]) -> Network:
        """The network that this plan makes."""
        ...


def sparsity_of(name: str) -> Callable[[float], Sparsity] | NofM | None:
    """What is zero inside a layer: by the fraction removed, or N:M as it is; None for channels and branches.

    Raises: ConfigError for a name that is none.
    """
    tile, blocks = re.fullmatch(r"(\d+)x(\d+)", name), re.fullmatch(r"(\d+):(\d+)", name)
    if name in ("channels", "branches"):
        return None
    if name == "weights":
        return lambda fraction: Weights(fraction=fraction)
    if name == "kernels":
        return lambda fraction: Kernels(fraction=fraction)
    if tile and int(tile[1]) and int(tile[2]):
        shape = int(tile[1]), int(tile[2])
        return lambda fraction: Tiles(shape=shape, fraction=fraction)
    if blocks and 0 < int(blocks[1]) < int(blocks[2]):
        return NofM(kept=int(blocks[1]), of=int(blocks[2]))
    raise ConfigError(f"prune: unknown granularity {name!r}; known: {NAMES}")
