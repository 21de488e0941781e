"""Measures of circuits: how two overlap, what shape their graph has; each beside random circuits of equal size."""
