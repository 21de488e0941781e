"""Bootstrap intervals over rows, or over groups where rows belong together."""

import numpy as np


def resample_counts(n: int, groups: np.ndarray | None, n_resamples: int, seed: int) -> np.ndarray:
    """How often each row is drawn, [resample, row]: rows (or whole groups) with replacement."""
    rng = np.random.default_rng(seed)
    ids = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    n_groups = int(ids.max()) + 1
    drawn = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=n_resamples)
    return drawn[:, ids]


def bootstrap_mean(
    values: np.ndarray, groups: np.ndarray | None = None, *, n_resamples: int = 1000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of the mean over rows of `values` [row, ...]: low [...] and high [...]."""
    flat = values.reshape(len(values), -1).astype(float)
    counts = resample_counts(len(values), groups, n_resamples, seed).astype(float)
    means = counts @ flat / counts.sum(1, keepdims=True)
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    return low.reshape(values.shape[1:]), high.reshape(values.shape[1:])
