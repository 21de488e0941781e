"""The interval of a share, also where every row says the same and no resample could say otherwise."""

import numpy as np

from conceptlab.evidence.intervals import bootstrap_mean

MANY = 1000  # from so many single rows on, the hits of a resample are drawn and not its rows: one law, far fewer draws


def bootstrap_share(values: np.ndarray, groups: np.ndarray | None = None, *, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of `values` [row] in [0, 1], over rows or groups; where all are 0 or all 1, the exact
    binomial bound for that many rows or groups (Clopper and Pearson 1934)."""
    n, hits = len(values), int((values == 1).sum())
    if groups is None and n >= MANY and hits + int((values == 0).sum()) == n:
        drawn = np.random.default_rng(seed).binomial(n, hits / n, size=1000) / n
        low, high = np.quantile(drawn, [0.025, 0.975])
    else:
        low, high = bootstrap_mean(values.astype(float), groups, seed=seed)
    bound = 0.025 ** (1 / (len(values) if groups is None else len(np.unique(groups))))
    if bool((values == 1).all()):
        low = bound
    if bool((values == 0).all()):
        high = 1 - bound
    return float(low), float(high)
