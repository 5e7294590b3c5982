"""Subcommands that have a file of their own, and what all subcommands share."""
