"""The parts of `storage.py`."""
