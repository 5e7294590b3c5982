"""The criterion of a pruning, checked against what it is asked to score."""

from typing import Any

from trimtab.errors import ConfigError
from trimtab.prune import CRITERIA
from trimtab.stats import Stats


def scorer(name: str, stats: Stats | None, kind: Any, *, of: str) -> Any:
    """The criterion `name`, which is a `kind` (UnitCriterion, …): it scores pieces called `of`.

    Raises: ConfigError when it is unknown, does not score such pieces, or needs statistics and there are none.
    """
    criterion = CRITERIA.load(name)()
    if not isinstance(criterion, kind):
        known = ", ".join(other for other in CRITERIA if isinstance(CRITERIA.load(other)(), kind))
        raise ConfigError(f"prune: criterion {name!r} does not score {of}; known that do: {known}")
    if criterion.needs and stats is None:
        needs = ", ".join(sorted(criterion.needs))
        raise ConfigError(
            f"prune: criterion {name!r} needs statistics ({needs}); give prune(…, stats=collect(network, batches, "
            "loss, needs)), or take 'magnitude'"
        )
    return criterion
