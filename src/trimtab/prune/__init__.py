"""Pruning: which units matter (criteria) and which stay (select)."""

from trimtab.prune.scores import Scores as Scores
from trimtab.prune.select import keep_best as keep_best
from trimtab.registry import Registry

CRITERIA = Registry(
    "criterion",
    {
        "magnitude": "trimtab.prune.criteria.magnitude:Magnitude",
        "taylor": "trimtab.prune.criteria.taylor:Taylor",
    },
)
