"""Criteria, one file each; `prune/contract.py` says what they have in common."""
