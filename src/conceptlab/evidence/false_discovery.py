"""Benjamini-Hochberg: how many of the things called found are expected to be nothing."""

import numpy as np


def q_values(p: np.ndarray) -> np.ndarray:
    """q [test] from p [test] (Benjamini and Hochberg 1995): the smallest false-discovery rate at which a test is found."""
    p = np.asarray(p, dtype=float)
    if p.size == 0:
        return p.copy()
    order = np.argsort(p)
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    q = np.empty_like(p)
    q[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return q
