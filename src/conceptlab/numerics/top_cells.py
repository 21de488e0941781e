"""How well the highest cells of a map fall into a given set of cells, whatever the map's scale, with ties shared out evenly."""

from collections.abc import Iterator

import numpy as np

RESOLUTION = 4  # decimals of a map's largest value; below that cells tie


def chance_corrected(precision: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """(precision - base) / (1 - base) of `precision` [..., set], base the share of cells in each set.

    It is Cohen's kappa of the top cells and the set, and, for a map that has nothing to do with the set, the standardised
    hypergeometric count but for sqrt(cells - 1): sets of every size compare. A set of all cells has no such number (-inf).
    """
    base = masks.mean(1)
    return np.where(base < 1, (precision - base) / np.where(base < 1, 1 - base, 1), -np.inf)


def top_cell_precision(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Share of the P highest cells of each map that lie in each set, [map, set]; P is the size of that set.

    `maps` [map, cell], `masks` [set, cell] bool. Cells that tie at the border count by the share of them that fits, which is the
    mean over all ways to break the tie.
    """
    found = np.zeros((len(maps), len(masks)))
    for these, weights in _tops(maps, masks):
        found[:, these] = weights @ masks[these].T.astype(np.float32)
    return found


def shuffled_precision(maps: np.ndarray, masks: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """The largest chance-corrected match over all sets when the cells of the maps are shuffled by `orders` [draw, cell],
    [draw, map]."""
    best = np.full((len(orders), len(maps)), -np.inf)
    for these, weights in _tops(maps, masks):
        wanted = masks[these]
        for draw, order in enumerate(orders):
            found = chance_corrected(weights @ wanted[:, order].T.astype(np.float32), wanted)
            np.maximum(best[draw], found.max(1), out=best[draw])
    return best


def _tops(maps: np.ndarray, masks: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For every size of a set: which sets have it, and how much each cell is among as many highest ones / size, [map, cell]."""
    largest = np.abs(maps).max(1, keepdims=True)
    maps = np.round(maps / np.where(largest > 0, largest, 1), RESOLUTION)
    sizes, falling = masks.sum(1), -np.sort(-maps, axis=1)
    for size in np.unique(sizes[sizes > 0]):
        border = falling[:, size - 1 : size]
        above, tied = maps > border, maps == border
        left = (size - above.sum(1, keepdims=True)) / tied.sum(1, keepdims=True)
        yield np.flatnonzero(sizes == size), ((above + tied * left) / size).astype(np.float32)
