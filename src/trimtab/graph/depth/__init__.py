"""Depth: residual branches, found from the graph and removed whole."""
