"""Select the units that stay."""

import torch

from trimtab.errors import ConfigError
from trimtab.prune.scores import Scores


def keep_best(scores: Scores, count: int) -> tuple[int, ...]:
    """The `count` units with the highest scores, sorted by index; of equal scores the lower index stays.

    Raises: ConfigError when `count` is not within 1..width.
    """
    width = len(scores.values)
    if not 1 <= count <= width:
        raise ConfigError(f"{scores.group}: cannot keep {count} of {width} units; keep at least 1 and at most {width}")
    order = torch.sort(scores.values, descending=True, stable=True).indices
    return tuple(sorted(order[:count].tolist()))
