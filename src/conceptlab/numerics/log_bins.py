"""Fixed bins for any float32: eight an octave between 2**-24 and 2**24 on either side of zero, read off the bits of the number.

A float32 is sign, exponent and mantissa: its first twelve bits (sign, exponent, the top three bits of the mantissa) are the
number of its octave and of the eighth within it, so finding a bin takes one shift and one look into a table of 4,096, and no data
is needed to choose edges. Bins from the lowest: beyond -2**24; 384 negative; closer to zero than 2**-24; zero (below 2**-129,
which hardware may flush); and the same again upwards.

A value stands in the middle of its bin with a relative error of at most 1/16; nearer to zero than 2**-24 the error is below 2**-24,
and beyond 2**24 there is no bound.
"""

import numpy as np

OCTAVES = 24  # on each side of 1
EIGHTHS = 8  # bins an octave
RELATIVE_ERROR = 1 / (2 * EIGHTHS)
N_BINS = 2 * (2 * OCTAVES * EIGHTHS + 2) + 1
ZERO = N_BINS // 2
_SHIFT = 20  # bits of a float32 below the ones that name the bin


def _table() -> np.ndarray:
    """Bin of each of the 4,096 beginnings of a float32."""
    code = np.arange(2048)
    lowest = (127 - OCTAVES) * EIGHTHS
    from_zero = np.where(code == 0, 0, np.clip(code - lowest + 2, 1, ZERO))
    return np.concatenate([ZERO + from_zero, ZERO - from_zero]).astype(np.int64)


def _edges() -> np.ndarray:
    octave = 1 + np.arange(EIGHTHS) / EIGHTHS
    found = np.append(np.outer(2.0 ** np.arange(-OCTAVES, OCTAVES), octave), 2.0**OCTAVES)
    return np.concatenate([[-np.inf], -found[::-1], [-0.0, 0.0], found, [np.inf]])


BIN_OF = _table()
EDGES = _edges()  # [bin + 1]: bin b lies between EDGES[b] and EDGES[b + 1]; the edge farther from zero is not in it
MIDDLES = np.concatenate(
    [[EDGES[1]], (EDGES[1:-2] + EDGES[2:-1]) / 2, [EDGES[-2]]]
)  # [bin]; of the outermost ones their edge


def bins(values: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """The bin of each float32 value, int64; `out` is an int64 array of the same shape to write them into."""
    found = np.empty(values.shape, np.int64) if out is None else out
    np.right_shift(values.view(np.uint32), _SHIFT, out=found, casting="unsafe")
    return np.take(BIN_OF, found, out=found, mode="clip")


def quantiles(counts: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Quantiles [q, unit] of a histogram [unit, bin]: the middle of the bin that holds the value of rank ceil(q n) (at least 1).

    NaN where a unit has no value.
    """
    below = np.cumsum(counts, axis=1)
    total = below[:, -1]
    found = np.full((len(q), len(counts)), np.nan)
    for row, share in enumerate(q):
        rank = np.maximum(np.ceil(np.round(share * total, 6)), 1)
        at = (below < rank[:, None]).sum(1)
        found[row] = np.where(total > 0, MIDDLES[np.minimum(at, N_BINS - 1)], np.nan)
    return found
