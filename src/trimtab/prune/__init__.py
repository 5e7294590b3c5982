"""Pruning: which units matter (criteria) and which stay (select)."""

from trimtab.prune.rank import rank as rank
from trimtab.prune.scores import Scores as Scores
from trimtab.registry import Registry

CRITERIA = Registry(
    "criterion",
    {
        "magnitude": "trimtab.prune.criteria.magnitude:Magnitude",
        "taylor": "trimtab.prune.criteria.taylor:Taylor",
    },
)
