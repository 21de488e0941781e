"""Points of a depth curve: where it jumps and from where on it is settled, as fractions of the depth (A1)."""

import numpy as np

from conceptlab.measure.probing.columns import Metric

JUMP, CALM = 1.1, 0.03


def converging_points(curve: np.ndarray, null: np.ndarray, metric: Metric) -> tuple[float | None, float | None]:
    """(jump, settled) of `curve` [layer], embedding first, as fractions of the depth; None where there is no such point.

    The variation rate of layer l is score_l / score_{l-1}. The jump is the first layer whose rate reaches 1.1 and whose score
    lies above the highest points of 95 % of the null's curves `null` [layer, draw] (one bar for all layers, since any layer
    could have risen by chance). Settled is the first layer from which on every rate stays within 3 % of 1, provided that the
    curve beats the same bar from there on.
    """
    last = len(curve) - 1
    if last < 1:
        return None, None
    bar = np.quantile(null.max(0), 0.95) if null.shape[1] else -np.inf
    shifted = (curve + 1) / 2 if metric == "r" else curve  # correlations pass through 0, where a rate means nothing
    rate = shifted[1:] / np.maximum(shifted[:-1], 1e-9)
    jumps = np.flatnonzero((rate >= JUMP) & (curve[1:] > bar))
    calm = np.abs(rate - 1) < CALM
    unsettled = np.flatnonzero(~calm)
    start = 0 if len(unsettled) == 0 else int(unsettled[-1]) + 2
    settled = start / last if start <= last and curve[start:].max() > bar else None
    return (float(jumps[0] + 1) / last if len(jumps) else None), settled


def literal_converging_point(curve: np.ndarray) -> float | None:
    """The paper's own point: the last layer whose rate is within 3 % of 1 (nearly always the last layer)."""
    calm = np.flatnonzero(np.abs(curve[1:] / np.maximum(curve[:-1], 1e-9) - 1) < CALM)
    return float(calm[-1] + 1) / (len(curve) - 1) if len(calm) else None
