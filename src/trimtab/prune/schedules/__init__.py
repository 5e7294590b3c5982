"""What the schedules do to a network while it trains, one file each; `prune.pruner.make_pruner` chooses."""
