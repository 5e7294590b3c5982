"""Pruning without training: how much each group, layer or branch loses, as a plan."""

from trimtab.search.pruning.allocations import ALLOCATIONS as ALLOCATIONS
from trimtab.search.pruning.curves import Curves as Curves
from trimtab.search.pruning.planner import measure_curves as measure_curves
from trimtab.search.pruning.planner import prune as prune
