"""Places for a layered graph: few crossings, straight long edges, nothing on top of anything.

After Sugiyama, Tagawa and Toda 1981: an edge that passes levels gets a small place of its own on each of them, levels are swept up
and down, and each place moves to the mean of its neighbours as far as the widths on its level allow. The order with the fewest
crossings is kept, and the last sweeps straighten the edges in it.
"""

import numpy as np

ORDERING, STRAIGHTENING = 40, 40  # sweeps
FIXED = -1


Ends = tuple[
    np.ndarray, np.ndarray, np.ndarray
]  # of links: the place, its neighbour, how far from it the link wants the place


def place(  # noqa: PLR0913 - the columns of places and of links
    level: np.ndarray, width: np.ndarray, start: np.ndarray, links: np.ndarray, enters: np.ndarray, span: float
) -> np.ndarray:
    """x [place] of the middle of each place, inside 0 to `span`.

    `level` [place] (`FIXED` ones stay at their start), `width` [place], and `start` [place] where they are at first. `links`
    [link, 2] join places, the lower one first, and meet the upper one `enters` [link] beside its middle. Places of one level do not
    overlap, if they fit into `span`; the whole stands in the middle of it.
    """
    x = start.astype(float)
    members = [np.flatnonzero(level == i) for i in range(int(level.max(initial=-1)) + 1)]
    low, high = links.T
    below: list[Ends] = [_picked((high, low, -enters), level[high] == i) for i in range(len(members))]
    above: list[Ends] = [_picked((low, high, enters), level[low] == i) for i in range(len(members))]
    both = [_joined(*ends) for ends in zip(below, above, strict=True)]
    order, fewest = [np.argsort(x[group], kind="stable") for group in members], np.inf
    for sweep in range(ORDERING):
        # one side alone finds the order, both together find the middle: measured, taking turns leaves the fewest crossings
        near = both if sweep % 4 > 1 else above if sweep % 2 else below
        for i in reversed(range(len(members))) if sweep % 2 else range(len(members)):
            wanted = _wanted(x, members[i], near[i])
            x[members[i]] = _spread(wanted, np.argsort(wanted, kind="stable"), width[members[i]], span)
        now = crossings(x, level, links, enters)
        if now < fewest:
            order, fewest = [np.argsort(x[group], kind="stable") for group in members], now
    for sweep in range(STRAIGHTENING):
        for i in reversed(range(len(members))) if sweep % 2 else range(len(members)):
            x[members[i]] = _spread(_wanted(x, members[i], both[i]), order[i], width[members[i]], span)
    free = level != FIXED
    left, right = (x - width / 2)[free].min(initial=span), (x + width / 2)[free].max(initial=0.0)
    return np.where(free, x + (span - left - right) / 2, x)


def crossings(x: np.ndarray, level: np.ndarray, links: np.ndarray, enters: np.ndarray) -> int:
    """How many pairs of links between the same two levels cross."""
    total = 0
    for i in range(int(level.max(initial=-1))):
        between = (level[links[:, 0]] == i) & (level[links[:, 1]] == i + 1)
        low, high = x[links[between, 0]], x[links[between, 1]] + enters[between]
        total += int(((low[:, None] < low) & (high[:, None] > high)).sum())
    return total


def _picked(ends: Ends, which: np.ndarray) -> Ends:
    own, near, shift = ends
    return own[which], near[which], shift[which]


def _joined(a: Ends, b: Ends) -> Ends:
    return np.concatenate([a[0], b[0]]), np.concatenate([a[1], b[1]]), np.concatenate([a[2], b[2]])


def _wanted(x: np.ndarray, group: np.ndarray, ends: Ends) -> np.ndarray:
    """The mean of where each place's links want it; without any, where it is."""
    own, near, shift = ends
    total, count = np.bincount(own, x[near] + shift, len(x)), np.bincount(own, minlength=len(x))
    return np.where(count[group] > 0, total[group] / np.maximum(count[group], 1), x[group])


def _spread(wanted: np.ndarray, order: np.ndarray, width: np.ndarray, span: float) -> np.ndarray:
    """The positions nearest to `wanted`, in the given order, at which no two places overlap."""
    from scipy.optimize import isotonic_regression

    if not len(wanted):
        return wanted
    ordered = width[order]
    offset = np.concatenate([[0.0], np.cumsum((ordered[1:] + ordered[:-1]) / 2)])
    first = ordered[0] / 2
    last = max(first, span - offset[-1] - ordered[-1] / 2)
    placed = np.empty_like(wanted)
    placed[order] = np.clip(isotonic_regression(wanted[order] - offset).x, first, last) + offset
    return placed
