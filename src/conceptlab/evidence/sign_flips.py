"""Is a paired difference above 0? Signs are exchangeable where it is not."""

import numpy as np


def sign_flip_p(differences: np.ndarray, *, n_flips: int = 999, seed: int = 0) -> np.ndarray:
    """One-sided p [...] that the mean over pairs of `differences` [pair, ...] is above 0, from random signs (Fisher 1935)."""
    rng = np.random.default_rng(seed)
    flat = differences.reshape(len(differences), -1)
    signs = rng.choice((-1.0, 1.0), size=(n_flips, len(flat)))
    null = signs @ flat
    above = (null >= flat.sum(0) - 1e-12 * np.abs(flat).sum(0)).sum(0)
    return ((1 + above) / (1 + n_flips)).reshape(differences.shape[1:])
