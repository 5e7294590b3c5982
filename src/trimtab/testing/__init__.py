"""Conformance suites: what everything in a registry must do, checked on inputs that the caller draws."""

from trimtab.testing.grids import check_grid as check_grid
from trimtab.testing.grids import grid_cases as grid_cases
