"""Many statistics over many rows, of which only sums are kept: their mean as a share of a gap, its interval, and p under random
draws.

Nothing of a row is kept, so that millions of statistics over any number of rows fit.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from conceptlab.evidence.floor import FLOOR
from conceptlab.evidence.moderated import moderated_p


@dataclass(eq=False)
class RowMoments:
    """Sums over rows of `size` statistics, each row beside a `gap` of its own (what the whole change does to that row), and of
    the same statistics under `n_random` draws of their null."""

    size: int
    n_random: int

    def __post_init__(self) -> None:
        self.n, self.gap_total, self.gap_squares = 0, 0.0, 0.0
        self.total, self.squares, self.cross = (np.zeros(self.size) for _ in "123")
        self.random = np.zeros((self.n_random, self.size))

    def add_rows(self, gap: np.ndarray) -> None:
        """Announce rows by their gaps [row]."""
        self.n += len(gap)
        self.gap_total += float(gap.sum())
        self.gap_squares += float(np.square(gap).sum())

    def add(self, at: slice, values: np.ndarray, gap: np.ndarray, random: np.ndarray) -> None:
        """Add announced rows' `values` [row, n] to the statistics `at`, and `random` [draw, n], sums over these rows."""
        values = np.asarray(values, dtype=np.float64)
        self.total[at] += values.sum(0)
        self.squares[at] += np.square(values).sum(0)
        self.cross[at] += gap @ values
        self.random[:, at] += random

    @property
    def gap(self) -> float:
        """Mean gap."""
        return self.gap_total / max(self.n, 1)

    def share(self) -> np.ndarray:
        """Mean value over mean gap."""
        return self.total / self.gap_total

    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        """95 % interval of `share` over rows, the gap's own spread included (delta method, Student's t); NaN for one row."""
        share = self.share()
        if self.n < 2:
            return np.full(self.size, np.nan), np.full(self.size, np.nan)
        left = np.maximum(self.squares - 2 * share * self.cross + share**2 * self.gap_squares, 0.0)
        half = stats.t.ppf(0.975, self.n - 1) * np.sqrt(left * self.n / (self.n - 1)) / abs(self.gap_total)
        return share - half, share + half

    def control(self) -> np.ndarray:
        """Root mean square of `share` over the null's draws."""
        if not self.n_random:
            return np.full(self.size, np.nan)
        return np.sqrt(np.square(self.random).mean(0)) / abs(self.gap_total)

    def p(self) -> np.ndarray:
        """Two-sided p of every statistic: the larger one of that under its draws (`moderated_p`, all statistics as one null) and,
        from two rows on, of Student's t that it has one sign over rows. NaN without draws."""
        if not self.n_random:
            return np.full(self.size, np.nan)
        p = moderated_p(self.total, self.random, FLOOR * abs(self.gap_total))
        return p if self.n < 2 else np.maximum(p, self._one_sign())

    def _one_sign(self) -> np.ndarray:
        variance = np.maximum(self.squares - self.total**2 / self.n, 0.0) * self.n / (self.n - 1)
        scale = np.sqrt(variance) + 1e-12 * np.abs(self.total)
        t = np.divide(np.abs(self.total), scale, out=np.zeros(self.size), where=scale > 0)
        return 2 * stats.t.sf(t, self.n - 1)
