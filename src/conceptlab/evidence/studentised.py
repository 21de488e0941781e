"""p values of many statistics on unlike scales from few draws each: every one in units of its own null, then one pooled null."""

import numpy as np

from conceptlab.evidence.permutation import pooled_p


def studentised_p(score: np.ndarray, null: np.ndarray, *, sided: int = 2) -> np.ndarray:
    """p [...] of `score` [...] under `null` [draw, ...] (`sided` 2, or 1: only larger counts).

    Mean and spread of each statistic are those of its draws and the score together, so that under the null the score is one more
    draw; the standardised draws of all statistics are then one null (as in Westfall and Young 1993, without the maximum). A
    statistic that never moves has p = 1.
    """
    score = np.asarray(score, dtype=float)
    every = np.concatenate([score[None], null]).reshape(1 + len(null), -1)
    spread = every.std(0)
    moved = spread > 1e-12 * np.maximum(np.abs(every).max(0), 1e-300)
    t = np.where(moved, (every - every.mean(0)) / np.where(moved, spread, 1.0), 0.0)
    t = np.abs(t) if sided == 2 else t
    p = pooled_p(t[0], t[1:, moved]) if moved.any() else np.ones(t.shape[1])
    return np.where(moved, p, 1.0).reshape(score.shape)
