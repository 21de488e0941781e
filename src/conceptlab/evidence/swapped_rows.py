"""Does a change do more than its random stand-in, and more than what is of no interest? Under the null the two may change places
in any row."""

import numpy as np

_AT_ONCE = 1 << 22  # statistics held at once


def swapped_rows_p(
    real: np.ndarray, other: np.ndarray, *, floor: float = 0.0, n_swaps: int = 9999, seed: int = 0
) -> np.ndarray:
    """Two-sided p [...] of the mean of `real` [row, ...] when each row may hold `other` [row, ...] in its place (Fisher 1935).

    The mean's size is compared with that of means in which every row took one of the two at random; p is at least 1 / (1 + swaps),
    and about 2 ** -rows where rows are few. With a `floor` the mean of `real` is first brought nearer to 0 by that much (a test of
    a smallest effect; p of a mean within it is 1): rows that share words are not independent, and p would be too sure of effects
    that are tiny.
    """
    rng = np.random.default_rng(seed)
    swap = rng.random((n_swaps, len(real))) < 0.5
    first, second = (np.asarray(a, dtype=float).reshape(len(real), -1) for a in (real, other))
    first = first - first.mean(0).clip(-floor, floor)
    p = np.empty(first.shape[1])
    width = max(1, _AT_ONCE // n_swaps)
    for start in range(0, len(p), width):
        a, b = first[:, start : start + width], second[:, start : start + width]
        means = np.abs(a.sum(0) + swap @ (b - a))
        least = np.abs(a.sum(0)) - 1e-9 * (np.abs(a).sum(0) + np.abs(b).sum(0))
        p[start : start + width] = (1 + (means >= least).sum(0)) / (1 + n_swaps)
    return p.reshape(np.asarray(real).shape[1:])
