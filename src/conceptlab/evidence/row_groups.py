"""Rows that share content (one subject in three templates) are one observation, not three: their random draws go together too."""

from collections.abc import Sequence

import numpy as np

from conceptlab.errors import InputError


def row_groups(groups: Sequence[int | str] | np.ndarray | None, n_rows: int) -> np.ndarray:
    """Group numbers [row] from 0; every row alone where `groups` is None. Raises InputError where they do not fit the rows."""
    if groups is None:
        return np.arange(n_rows)
    found = np.unique(np.asarray(groups), return_inverse=True)[1]
    if found.shape != (n_rows,):
        raise InputError(f"{len(found)} groups came for {n_rows} rows; give one group a row, or none")
    return found
