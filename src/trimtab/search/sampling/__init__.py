"""Samplers: which factors on the losses are tried next, by name."""

from typing import Protocol

from trimtab.registry import Registry
from trimtab.search.corrections import Factors


class Sampler(Protocol):
    """Made from a `seed` and how many `trials` there will be. Equal seeds and answers give equal questions."""

    def __init__(self, *, seed: int, trials: int) -> None: ...

    def ask(self) -> Factors | None:
        """The next factors to try; None when there are no more."""

    def tell(self, factors: Factors, value: float) -> None:
        """What came of the factors that were asked for: less is better."""


SAMPLERS = Registry(
    "sampler",
    {"grid": "trimtab.search.sampling.plain:Grid", "random": "trimtab.search.sampling.plain:Random"},
)
SAMPLERS.register("tpe", "trimtab.search.sampling.learning:Tpe", extra="search")
SAMPLERS.register("evolutionary", "trimtab.search.sampling.learning:Evolutionary", extra="search")


def sampler(name: str, *, seed: int, trials: int) -> Sampler:
    """Raises: ConfigError for an unknown name, MissingPackageError where it needs a package that is missing."""
    made: Sampler = SAMPLERS.load(name)(seed=seed, trials=trials)
    return made
