"""From a module to a graph in the form that the analysis reads, and everything that is checked on the way."""
