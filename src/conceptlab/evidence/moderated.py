"""p values of many effects from few random draws each, where an effect too small to matter must not win by a tiny spread."""

import numpy as np

from conceptlab.evidence.false_discovery import q_values
from conceptlab.evidence.permutation import pooled_p


def moderated_p(score: np.ndarray, null: np.ndarray, floor: float) -> np.ndarray:
    """Two-sided p [unit] of `score` [unit] under `null` [draw, unit], draws around 0 (the form of Tusher et al. 2001).

    Each score is divided by the root mean square of its draws plus `floor`, the smallest score of interest; each draw likewise by
    that of the other draws. The standardised draws of all units that anything moves are one null; a unit that nothing moves has
    p = 1.
    """
    size, square = np.abs(np.asarray(score, dtype=float)), np.square(null)
    total = square.sum(0)
    t = size / (np.sqrt(total / max(1, len(null))) + floor)
    moved = (total > 0) | (size > 0)
    p = np.ones(len(size))
    if moved.any():
        p[moved] = pooled_p(t[moved], _standardised(null, total, floor)[:, moved])
    return p


def _standardised(null: np.ndarray, total: np.ndarray, floor: float) -> np.ndarray:
    """Each draw in units of the others; row by row, since there may be millions of units."""
    others = max(1, len(null) - 1)
    return np.stack([np.abs(row) / (np.sqrt((total - row**2).clip(0) / others) + floor) for row in null])


def q_of_moved(p: np.ndarray) -> np.ndarray:
    """q [unit] over the units whose p is below 1: one that nothing moves is no question. The others have q = 1; NaN stays."""
    q = np.where(np.isnan(p), np.nan, 1.0)
    asked = p < 1
    q[asked] = q_values(p[asked])
    return q
