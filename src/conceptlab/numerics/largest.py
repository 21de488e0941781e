"""The k largest values of every unit in a stream, with the numbers of their tokens; of equal values the earlier token counts.

A batch is first cut down to candidates by a bound that costs one pass: the k-th largest of the maxima of groups of tokens is never
above the k-th largest value. Only what exceeds it, or what is held already, is sorted.
"""

import numpy as np

NOBODY = -1  # the token of an empty place, whose value is -inf


class Largest:
    """`value` [unit, k] float32, falling, and `token` [unit, k] of the largest values of each of `n_units`."""

    def __init__(self, n_units: int, k: int) -> None:
        self.k = k
        self.value = np.full((n_units, k), -np.inf, dtype=np.float32)
        self.token = np.full((n_units, k), NOBODY, dtype=np.int64)

    def update(self, units: slice, x: np.ndarray, first_token: int) -> None:
        """Add values [unit, token] of the units in the slice; -inf is nobody's value."""
        if self.k == 0 or x.size == 0:
            return
        held = self.value[units, -1]
        later = self.token[units].max(initial=NOBODY) < first_token
        bound = group_bound(x, self.k)
        # a value at the bound may be among the k largest; one that equals what is held is not, when it comes later
        reaching = np.nextafter(np.maximum(bound, held), -np.inf, dtype=np.float32)
        above = np.where((held >= bound) & later, held, reaching)
        found = np.flatnonzero(x > above[:, None])
        if len(found) > 8 * self.k * len(x):
            found = np.flatnonzero(_first_of_ties(x, above, self.k))
        if len(found):
            unit, token = np.divmod(found, x.shape[1])
            self._insert(unit + units.start, x.reshape(-1)[found], token + first_token)

    def merge(self, other: "Largest", first_token: int = 0) -> None:
        """Add what another one holds of the same units, whose token 0 is number `first_token` here."""
        unit, place = np.nonzero(other.token != NOBODY)
        if len(unit):
            self._insert(unit, other.value[unit, place], other.token[unit, place] + first_token)

    def _insert(self, unit: np.ndarray, value: np.ndarray, token: np.ndarray) -> None:
        """Keep the k largest of what the units hold and the new entries [entry], which come unit after unit."""
        rows, start, counts = np.unique(unit, return_index=True, return_counts=True)
        row = np.repeat(np.arange(len(rows)), counts)
        place = self.k + np.arange(len(unit)) - start[row]
        shape = (len(rows), self.k + int(counts.max()))
        values, tokens = np.full(shape, -np.inf, dtype=np.float32), np.full(shape, NOBODY, dtype=np.int64)
        values[:, : self.k], tokens[:, : self.k] = self.value[rows], self.token[rows]
        values[row, place], tokens[row, place] = value, token
        order = np.lexsort((tokens, -values), axis=-1)[:, : self.k]
        self.value[rows] = np.take_along_axis(values, order, axis=1)
        self.token[rows] = np.take_along_axis(tokens, order, axis=1)


def group_bound(x: np.ndarray, k: int) -> np.ndarray:
    """A number [unit] that at least k of the values [unit, token] reach; -inf where there are fewer values."""
    if x.shape[1] < k:
        return np.full(len(x), -np.inf, dtype=x.dtype)
    n_groups = min(4 * k, x.shape[1])
    size = x.shape[1] // n_groups
    highest = x[:, : n_groups * size].reshape(len(x), size, n_groups).max(1)
    return np.partition(highest, -k, axis=1)[:, -k]


def _first_of_ties(x: np.ndarray, above: np.ndarray, k: int) -> np.ndarray:
    """What exceeds `above`, of each unit's values that are equal at the border only the first k."""
    border = np.nextafter(above, np.inf, dtype=np.float32)[:, None]
    return (x > border) | ((x == border) & (np.cumsum(x == border, axis=1) <= k))
