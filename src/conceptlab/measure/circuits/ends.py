"""From a metric to a share of a behaviour: 0 where no edge is left, 1 in the whole model, with intervals over prompts."""

from dataclasses import dataclass

import numpy as np

from conceptlab.evidence import resample_counts
from conceptlab.evidence.sign_flips import sign_flip_p
from conceptlab.model.edge_run import EdgeRun
from conceptlab.model.metric import Metric

TOO_CLOSE = 1e-3  # in units of the metric
FEWEST = 6  # rows whose signs can tell a difference from chance at all: 2 / 2^5 is above 0.05


@dataclass(frozen=True, eq=False)
class Ends:
    """The metric [row] of the `whole` model and with no edge left (`empty`)."""

    whole: np.ndarray
    empty: np.ndarray

    @property
    def gap(self) -> float:
        """How far the ends are apart, mean over rows."""
        return float((self.whole - self.empty).mean())

    def p(self) -> float:
        """Two-sided p that the ends differ at all, from random signs of the rows' differences."""
        towards = np.sign(self.gap) * (self.whole - self.empty)
        return min(1.0, 2 * float(sign_flip_p(towards[:, None])[0]))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why shares cannot be believed, if they cannot."""
        if abs(self.gap) < TOO_CLOSE:
            return (f"whole and empty graph score alike (they differ by {self.gap:.1e}), so no share is defined",)
        if len(self.whole) < FEWEST:
            return (f"{len(self.whole)} rows are too few to tell the behaviour from chance; give at least {FEWEST}",)
        p = self.p()
        if p > 0.05:
            return (f"whole and empty graph do not differ more than chance over {len(self.whole)} rows (p = {p:.2f})",)
        return ()

    def share(self, values: np.ndarray) -> np.ndarray:
        """(mean of `values` [..., row] - empty) / (whole - empty); NaN where the ends score alike."""
        if abs(self.gap) < TOO_CLOSE:
            return np.full(values.shape[:-1], np.nan)
        return (values.mean(-1) - self.empty.mean()) / self.gap

    def interval(self, values: np.ndarray, *, n_resamples: int = 1000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """95 % interval of `share` when rows are drawn again, the ends with them."""
        counts = resample_counts(len(self.whole), None, n_resamples, seed).astype(float)
        above, gap = counts @ (values - self.empty).reshape(-1, len(self.whole)).T, counts @ (self.whole - self.empty)
        if abs(self.gap) < TOO_CLOSE:
            none = np.full(values.shape[:-1], np.nan)
            return none, none
        low, high = np.quantile(above / np.where(gap == 0, np.nan, gap)[:, None], [0.025, 0.975], axis=0)
        return low.reshape(values.shape[:-1]), high.reshape(values.shape[:-1])


def ends_of(run: EdgeRun, metric: Metric) -> Ends:
    """Run both ends."""
    return Ends(run.whole(metric), run.empty(metric))
