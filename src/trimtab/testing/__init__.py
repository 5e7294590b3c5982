"""Conformance suites: what everything in a registry must do, checked on inputs that the caller draws."""

from trimtab.testing.criteria import check_criterion as check_criterion
from trimtab.testing.criteria import criterion_cases as criterion_cases
from trimtab.testing.grids import check_grid as check_grid
from trimtab.testing.grids import grid_cases as grid_cases
