"""Interleaved pairs: the bare call right before and right after ours, so that a busy machine slows both alike.

The clock is the main thread's CPU time with OMP_WAIT_POLICY=PASSIVE (waiting does not count), which other processes disturb
least; the wall ratio stands beside it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Call = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """`value` (a ratio, or milliseconds over the bare call) with its 95 % bootstrap interval, the wall figure, and pairs."""

    value: float
    low: float
    high: float
    wall: float
    n: int


def spent(call: Call) -> tuple[float, float]:
    """Main-thread CPU and wall seconds of one call."""
    wall, cpu = time.perf_counter(), time.thread_time()
    call()
    return time.thread_time() - cpu, time.perf_counter() - wall


def pairs(ours: Call, bare: Call, *, n: int, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Seconds [pair, (cpu, wall)] of ours and of the mean of the bare calls around it; at least 2 pairs, `limit` seconds.

    With n = 1, for calls of minutes, nothing is run beforehand.
    """
    if n > 1:
        ours()
    bare()
    around, mine = [spent(bare)], []
    start = time.perf_counter()
    while len(mine) < n and (len(mine) < 2 or time.perf_counter() - start < limit):
        mine.append(spent(ours))
        around.append(spent(bare))
    beside = np.array(around)
    return np.array(mine), (beside[:-1] + beside[1:]) / 2


def interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    index = np.random.default_rng(seed).integers(0, len(values), (2000, len(values)))
    low, high = np.quantile(np.median(values[index], axis=1), [0.025, 0.975])
    return float(low), float(high)


def ratio(ours: Call, bare: Call, *, n: int = 7, limit: float = 25.0) -> Timing:
    """How many bare calls ours costs."""
    mine, beside = pairs(ours, bare, n=n, limit=limit)
    quotient = mine / beside
    return Timing(
        float(np.median(quotient[:, 0])), *interval(quotient[:, 0]), float(np.median(quotient[:, 1])), len(mine)
    )


def milliseconds_over(ours: Call, bare: Call, *, n: int = 100, limit: float = 10.0) -> Timing:
    """How many milliseconds ours costs over the bare call."""
    mine, beside = pairs(ours, bare, n=n, limit=limit)
    over = 1e3 * (mine - beside)
    return Timing(float(np.median(over[:, 0])), *interval(over[:, 0]), float(np.median(over[:, 1])), len(mine))
