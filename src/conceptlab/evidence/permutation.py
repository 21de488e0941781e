"""Shuffled labels that respect what belongs together: the null of every score."""

import numpy as np


def permuted_labels(labels: np.ndarray, groups: np.ndarray | None, n: int, seed: int) -> np.ndarray:
    """`n` shuffles [n, row] of `labels` [row].

    Without groups rows are exchangeable. Where the label is constant inside every group, labels move between whole groups;
    where groups mix labels (pairs, templates), they move inside each group, so that what a group gives away stays the same.
    """
    rng = np.random.default_rng(seed)
    if groups is None:
        return _stacked([rng.permutation(labels) for _ in range(n)], labels)
    ids = np.unique(groups, return_inverse=True)[1]
    first = np.zeros(int(ids.max()) + 1, dtype=labels.dtype)
    first[ids] = labels
    if bool((first[ids] == labels).all()):
        return _stacked([rng.permutation(first)[ids] for _ in range(n)], labels)
    order = np.argsort(ids, kind="stable")
    shuffled = np.empty((n, len(labels)), dtype=labels.dtype)
    for row in shuffled:
        keys = np.lexsort((rng.random(len(labels)), ids))
        row[order] = labels[keys]
    return shuffled


def _stacked(rows: list[np.ndarray], like: np.ndarray) -> np.ndarray:
    return np.stack(rows) if rows else np.empty((0, len(like)), dtype=like.dtype)


def permutation_p(observed: float | np.ndarray, null: np.ndarray) -> np.ndarray:
    """One-sided p [..] of `observed` [..] under `null` [draw, ..]: (1 + draws at least as large) / (1 + draws)."""
    return (1 + (null >= np.asarray(observed) - 1e-12).sum(0)) / (1 + len(null))


def pooled_p(observed: np.ndarray, null: np.ndarray) -> np.ndarray:
    """One-sided p [unit] under a null pooled over all units and draws `null` [draw, unit], for statistics on one scale."""
    pool = np.sort(null.reshape(-1))
    above = len(pool) - np.searchsorted(pool, observed - 1e-12, side="left")
    return (1 + above) / (1 + len(pool))
