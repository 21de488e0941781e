"""Statistics of every unit over a stream of tokens, in one pass: moments, extremes, a histogram, the largest values.

Mean and sum of squared deviations are kept in float64 and joined by the pairwise rule of Chan, Golub and LeVeque (1979); the
histogram has the fixed bins of `log_bins.py`, so that histograms of any two streams add. Merging the statistics of parts in their
order gives those of the whole, moments within a relative 1e-12 and all else exactly. NaN and infinite values are counted apart and
enter nothing else. Memory: 6 KB a unit for the histogram, 12 bytes for each of the largest values. Cost: about 10 ns a value on one
core, a third of it for the histogram; the first few thousand tokens cost half as much again.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from conceptlab.numerics.largest import Largest
from conceptlab.numerics.log_bins import N_BINS, ZERO, bins, quantiles

LARGEST = 16  # exemplars a unit, unless told otherwise; stores of this schema keep so many
UNITS, TOKENS = 128, 2048  # values that are worked on together, so that they stay in the cache
PAD = 16  # values between rows, so that those of one unit do not all fall into the same lines of the cache
FEW = 64  # tokens: fewer are added to the histogram one by one


class Statistics:
    """Of `n_units` units, each an array [unit]: `count` of finite values, `nan`, `inf`, `mean`, `m2` (summed squared deviations),
    `min`, `max`; `histogram` [unit, bin] and `largest` (value and token [unit, k]). Without values min is inf, max -inf."""

    def __init__(self, n_units: int, k: int = LARGEST) -> None:
        self.n_units = n_units
        self.count, self.nan, self.inf = (np.zeros(n_units, dtype=np.int64) for _ in range(3))
        self.mean, self.m2 = np.zeros(n_units), np.zeros(n_units)
        self.min = np.full(n_units, np.inf, dtype=np.float32)
        self.max = np.full(n_units, -np.inf, dtype=np.float32)
        self.histogram = np.zeros((n_units, N_BINS), dtype=np.int64)
        self.largest = Largest(n_units, k)

    @property
    def variance(self) -> np.ndarray:
        """The mean squared deviation [unit]; NaN where a unit has no value."""
        return np.divide(self.m2, self.count, out=np.full(self.n_units, np.nan), where=self.count > 0)

    @property
    def std(self) -> np.ndarray:
        """The square root of the variance [unit]."""
        return np.sqrt(self.variance)

    def quantile(self, q: float | Sequence[float]) -> np.ndarray:
        """Quantiles [q, unit] (or [unit] of one q): the value of rank ceil(q n), read from the histogram.

        The relative error is at most 1/16 between 2**-24 and 2**24; nearer to zero the error is below 2**-24; farther out only min
        and max bound it. NaN where a unit has no value. Raises ValueError for a q outside 0 to 1.
        """
        wanted = np.atleast_1d(np.asarray(q, dtype=float))
        if not ((wanted >= 0) & (wanted <= 1)).all():
            raise ValueError(f"quantiles lie between 0 and 1; {q} was asked")
        found = np.clip(quantiles(self.histogram, wanted), self.min, self.max)
        return found if np.ndim(q) else found[0]

    def update(self, x: np.ndarray, first_token: int) -> None:
        """Add values [token, unit], read as float32, of the tokens from number `first_token` on."""
        x = np.asarray(x, dtype=np.float32)
        work = _Work(min(len(x), TOKENS), min(self.n_units, UNITS))
        for start in range(0, len(x), TOKENS):
            rows = x[start : start + TOKENS]
            for unit in range(0, self.n_units, UNITS):
                units = slice(unit, min(unit + UNITS, self.n_units))
                self._add(units, work.turned(rows[:, units]), first_token + start, work)

    def _add(self, units: slice, x: np.ndarray, first_token: int, work: "_Work") -> None:
        """Add values [unit, token]."""
        lowest, highest = x.min(1), x.max(1)
        if np.isfinite(lowest).all() and np.isfinite(highest).all():
            finite, above = None, x
        else:
            finite = np.isfinite(x)
            self.nan[units] += np.isnan(x).sum(1)
            self.inf[units] += np.isinf(x).sum(1)
            above = np.where(finite, x, np.float32(-np.inf))
            lowest, highest = np.where(finite, x, np.inf).min(1), above.max(1)
            x = np.where(finite, x, np.float32(0))
        np.minimum(self.min[units], lowest, out=self.min[units])
        np.maximum(self.max[units], highest, out=self.max[units])
        self.largest.update(units, above, first_token)
        count = np.full(len(x), x.shape[1]) if finite is None else finite.sum(1)
        self._join(units, count, *_moments(x, count, finite, work))
        self._count(units, x, work)
        self.histogram[units, ZERO] -= x.shape[1] - count

    def _join(self, units: slice, count: np.ndarray, mean: np.ndarray, m2: np.ndarray) -> None:
        """Join the moments of more values to those that are held."""
        total = self.count[units] + count
        share = np.divide(count, total, out=np.zeros(len(total)), where=total > 0)
        apart = mean - self.mean[units]
        self.m2[units] += m2 + apart * apart * self.count[units] * share
        self.mean[units] += apart * share
        self.count[units] = total

    def _count(self, units: slice, x: np.ndarray, work: "_Work") -> None:
        """Add values [unit, token] to the histogram."""
        place = bins(x, work.place(x.shape))
        place += np.arange(len(x))[:, None] * N_BINS
        counts = self.histogram[units].reshape(-1)
        if x.shape[1] < FEW:
            np.add.at(counts, place.reshape(-1), 1)
        else:
            counts += np.bincount(place.reshape(-1), minlength=len(counts))

    def merge(self, other: "Statistics", first_token: int = 0) -> None:
        """Add the statistics of other tokens of the same units, whose token 0 is number `first_token` here.

        Raises ValueError where units or k differ.
        """
        if (other.n_units, other.largest.k) != (self.n_units, self.largest.k):
            raise ValueError(
                f"{other.n_units} units with {other.largest.k} largest values do not merge with {self.n_units} and {self.largest.k}"
            )
        self._join(slice(0, self.n_units), other.count, other.mean, other.m2)
        self.nan += other.nan
        self.inf += other.inf
        np.minimum(self.min, other.min, out=self.min)
        np.maximum(self.max, other.max, out=self.max)
        self.histogram += other.histogram
        self.largest.merge(other.largest, first_token)

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything as named arrays; of the histogram only bins that hold something: how many `bins` [unit], and of each, unit
        after unit, `bin` and `bin_count`."""
        unit, place = np.nonzero(self.histogram)
        counts = self.histogram[unit, place]
        names = ("count", "nan", "inf", "mean", "m2", "min", "max")
        return {
            **{name: getattr(self, name) for name in names},
            "largest_value": self.largest.value,
            "largest_token": self.largest.token,
            "bins": np.bincount(unit, minlength=self.n_units).astype(np.uint16),
            "bin": place.astype(np.uint16),
            "bin_count": counts.astype(np.min_scalar_type(counts.max(initial=0))),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Statistics":
        """Read what `arrays` gave. Raises ValueError where the arrays do not belong together."""
        n_units = len(arrays["count"])
        k = arrays["largest_value"].shape[-1]
        found = cls(n_units, k)
        for name in ("count", "nan", "inf", "mean", "m2", "min", "max"):
            getattr(found, name)[:] = _shaped(arrays, name, (n_units,))
        found.largest.value[:] = _shaped(arrays, "largest_value", (n_units, k))
        found.largest.token[:] = _shaped(arrays, "largest_token", (n_units, k))
        used = _shaped(arrays, "bins", (n_units,))
        if used.max(initial=0) > N_BINS or used.min(initial=0) < 0:
            raise ValueError(f"a unit uses {used.max()} bins; there are {N_BINS}")
        unit = np.repeat(np.arange(n_units), used)
        place = _shaped(arrays, "bin", unit.shape)
        if place.max(initial=0) >= N_BINS or place.min(initial=0) < 0:
            raise ValueError(f"bin {place.max()} does not exist; there are {N_BINS}")
        found.histogram[unit, place] = _shaped(arrays, "bin_count", unit.shape)
        return found


def _shaped(arrays: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...]) -> np.ndarray:
    if arrays[name].shape != shape:
        raise ValueError(f"{name} has the shape {arrays[name].shape}, not {shape}")
    return arrays[name]


class _Work:
    """Memory that is used again for every block."""

    def __init__(self, n_tokens: int, n_units: int) -> None:
        size = n_tokens * n_units
        self._staged = np.empty((n_tokens, n_units + PAD), dtype=np.float32)
        self._turned = np.empty(size, dtype=np.float32)
        self._wide, self._place = np.empty(size), np.empty(size, dtype=np.int64)

    def turned(self, x: np.ndarray) -> np.ndarray:
        """The values [token, unit] as [unit, token], each unit's together."""
        found = self._turned[: x.size].reshape(x.shape[::-1])
        staged = self._staged[: len(x), : x.shape[1]]
        np.copyto(staged, x)
        np.copyto(found, staged.T)
        return found

    def wide(self, shape: tuple[int, ...]) -> np.ndarray:
        """Room for float64 values."""
        return self._wide[: shape[0] * shape[1]].reshape(shape)

    def place(self, shape: tuple[int, ...]) -> np.ndarray:
        """Room for int64 values."""
        return self._place[: shape[0] * shape[1]].reshape(shape)


def _moments(x: np.ndarray, count: np.ndarray, finite: np.ndarray | None, work: _Work) -> tuple[np.ndarray, np.ndarray]:
    """Mean and summed squared deviations [unit] of a block [unit, token], in which what is not finite is zero."""
    wide = work.wide(x.shape)
    np.copyto(wide, x)
    mean = np.divide(wide.sum(1), count, out=np.zeros(len(x)), where=count > 0)
    np.subtract(wide, mean[:, None], out=wide)
    if finite is not None:
        wide *= finite
    np.multiply(wide, wide, out=wide)
    return mean, wide.sum(1)
