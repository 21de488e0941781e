"""How large the largest cosine with many given vectors is for a direction that points anywhere, exactly bounded.

The cosine of a uniform direction in d dimensions with any fixed vector exceeds c in size with probability I(1 - c^2; (d-1)/2, 1/2)
(the regularised incomplete beta function). Of m vectors the largest does so with at most m times that, however they lie to each
other; the bound is tight where they are many and spread, and never too sure. Checked against draws in the tests.
"""

import numpy as np
from scipy.special import betainc, betaincinv


def largest_cosine_p(cosine: np.ndarray, n_vectors: int, d: int) -> np.ndarray:
    """p of the largest |cosine| with `n_vectors` vectors under a uniform direction in `d` dimensions (at least 2)."""
    inside = np.clip(1.0 - np.square(np.asarray(cosine, dtype=float)), 0.0, 1.0)
    tiny = np.finfo(float).tiny
    return np.clip(n_vectors * betainc((d - 1) / 2, 0.5, inside), tiny, 1.0)


def largest_cosine_at(p: np.ndarray, n_vectors: int, d: int) -> np.ndarray:
    """The inverse: the |cosine| that is reached with probability `p` at most."""
    each = np.clip(np.asarray(p, dtype=float) / n_vectors, np.finfo(float).tiny, 1.0)
    return np.sqrt(np.clip(1.0 - betaincinv((d - 1) / 2, 0.5, each), 0.0, 1.0))


def largest_cosine_draws(shape: tuple[int, ...], n_vectors: int, d: int) -> np.ndarray:
    """A null of this shape without drawing: its quantiles at even steps, so that pooled p are those of the bound down to
    1 / (1 + size)."""
    size = int(np.prod(shape))
    p = (np.arange(size) + 0.5) / size
    # smooth in log p: a grid and straight lines between are exact to 1e-6
    grid = np.geomspace(0.5 / size, 1.0, 4096)
    return np.interp(np.log(p), np.log(grid), largest_cosine_at(grid, n_vectors, d)).reshape(shape)
