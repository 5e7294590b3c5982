"""A network as one file that holds no code."""
