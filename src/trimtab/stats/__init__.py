"""One pass over the data serves every statistic that was asked for."""

from trimtab.stats.collect import STATISTICS as STATISTICS
from trimtab.stats.collect import collect as collect
from trimtab.stats.found import Found as Found
from trimtab.stats.found import Stats as Stats
from trimtab.stats.units import sum_by_unit as sum_by_unit
