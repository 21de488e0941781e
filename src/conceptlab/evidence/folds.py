"""Folds for held-out scores: seeded, stratified by class, and never splitting rows that must stay together."""

import numpy as np

from conceptlab.errors import DataError


def make_folds(labels: np.ndarray, groups: np.ndarray | None, *, n_folds: int = 5, seed: int = 0) -> np.ndarray:
    """Fold number [row] of each row. Whole groups are dealt out, largest first, to the fold that needs their classes most.

    `labels` [row] are class ids, or floats (then stratified by quintile). Raises DataError where there are too few rows or
    groups for the folds, or a class would be missing from the training rows of some fold.
    """
    strata = labels.astype(int) if labels.dtype.kind in "iub" else _quintiles(labels)
    groups = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    n_groups = int(groups.max()) + 1
    if n_groups < n_folds:
        raise DataError(
            f"{n_groups} groups are too few for {n_folds} folds; give at least {n_folds} groups or fewer folds"
        )
    counts = np.zeros((n_groups, int(strata.max()) + 1))
    np.add.at(counts, (groups, strata), 1)
    rng = np.random.default_rng(seed)
    order = rng.permutation(n_groups)
    order = order[np.argsort(-counts[order].sum(1), kind="stable")]
    fold_of, filled = np.zeros(n_groups, dtype=int), np.zeros((n_folds, counts.shape[1]))
    target = counts.sum(0) / n_folds
    for group in order:
        gap = ((filled + counts[group]) / np.maximum(target, 1)) ** 2 - (filled / np.maximum(target, 1)) ** 2
        cost = gap.sum(1) + 1e-9 * rng.random(n_folds)
        fold_of[group] = int(cost.argmin())
        filled[fold_of[group]] += counts[group]
    _check(filled, labels.dtype.kind in "iub", n_folds)
    return fold_of[groups]


def _quintiles(values: np.ndarray) -> np.ndarray:
    return np.minimum((np.argsort(np.argsort(values, kind="stable")) * 5) // max(len(values), 1), 4)


def _check(filled: np.ndarray, is_class: bool, n_folds: int) -> None:
    if (filled.sum(1) == 0).any():
        raise DataError(f"the rows cannot be dealt into {n_folds} folds; give more rows or smaller groups")
    if is_class:
        thin = np.flatnonzero((filled > 0).sum(0) < 3)
        if len(thin):
            raise DataError(
                f"class {thin[0]} appears in fewer than 3 of {n_folds} folds, so it cannot be tested on held-out rows; "
                "give more rows or groups of it"
            )
