"""Criteria, one file each: `needs` names the statistics, `__call__(network, group, stats)` gives the Scores."""
