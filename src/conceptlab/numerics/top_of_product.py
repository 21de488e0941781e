"""The k largest and k smallest entries of every row of a product that is too large to keep: rows x columns', streamed.

A block of rows meets the columns tile by tile. While a tile is still in the cache, the largest and smallest of every group of
`GROUP` entries are taken, and those of groups of groups. The k largest of a row lie in the k groups with the largest tops (fewer
than k groups can hold anything larger), so only k x GROUP entries of a row are read again, and the rest of the product is written
once and never read from memory. Exact against sorting the whole product. Cost: the product, one comparison an entry for either end,
and 4 x k x GROUP reads a row; memory: one block of the product, at most `budget_bytes`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from conceptlab.numerics.large_pages import roomy

GROUP, MOST_ROWS = 16, 512
TILE, TILE_HALF = 8192, 2048  # columns at a time; those in 16 bits are copied to 32, which must stay small
BUDGET = 1 << 28


class Extremes(NamedTuple):
    """`top`, `top_ids`, `low`, `low_ids`, each [row, k], the most extreme first; ids count columns."""

    top: Tensor
    top_ids: Tensor
    low: Tensor
    low_ids: Tensor


@torch.no_grad()
def top_of_product(rows: Tensor, columns: Tensor, k: int, *, budget_bytes: int = BUDGET) -> Extremes:
    """Extremes of `rows` [n, d] @ `columns` [m, d]' in float32, k at most m. `budget_bytes` bounds the working memory beside them.

    With less than a few megabytes the blocks become so small that time is lost.
    """
    k = min(k, len(columns))
    height, width = block_shape(len(rows), len(columns), k, budget_bytes)
    kept: list[Extremes] = []
    buffer = roomy(width, height, device=columns.device)
    for at in range(0, len(rows), height):
        block, found = rows[at : at + height].float().T, None
        for start in range(0, len(columns), width):
            part = _extremes(block, columns[start : start + width], k, start, buffer)
            found = part if found is None else _merged(found, part, k)
        if found is not None:
            kept.append(found)
    empty = (rows.new_zeros(0, k, dtype=torch.float32), torch.zeros(0, k, dtype=torch.long, device=rows.device))
    return Extremes(*(torch.cat(parts) for parts in zip(*kept, strict=True))) if kept else Extremes(*empty, *empty)


def block_shape(n_rows: int, n_columns: int, k: int, budget_bytes: int) -> tuple[int, int]:
    """How many rows and columns of the product are held at once: all columns where the budget allows 64 rows of them."""
    each = 4 * (1 + 4 / GROUP)  # an entry, its share of the groups' ends and of their sorted copies
    again = 40 * k * GROUP  # a row's entries that are read again, with their places
    whole = int(budget_bytes / (each * n_columns + again))
    if whole >= min(64, n_rows):
        return max(1, min(n_rows, MOST_ROWS, whole)), n_columns
    height = max(1, min(n_rows, 64, int(budget_bytes / (each * GROUP + again))))
    left = budget_bytes - height * again
    return height, min(n_columns, max(GROUP, int(left / (each * height)) // GROUP * GROUP))


def _extremes(block: Tensor, columns: Tensor, k: int, start: int, buffer: Tensor) -> Extremes:
    """Extremes of block' [d, n] against some columns; `buffer` [columns, rows] takes the product."""
    n_columns, n_rows = len(columns), block.shape[1]
    out = buffer.view(-1)[: n_columns * n_rows].view(n_columns, n_rows)
    tops, lows = out.new_empty(2, -(-n_columns // GROUP), n_rows)
    step = TILE if columns.dtype == torch.float32 else TILE_HALF
    for at in range(0, n_columns, step):
        tile = out[at : at + step]
        torch.mm(columns[at : at + step].float(), block, out=tile)
        _ends(tile, torch.amax, tops[at // GROUP :])
        _ends(tile, torch.amin, lows[at // GROUP :])
    k = min(k, n_columns)
    return Extremes(
        *_furthest(out, tops, k, largest=True, start=start), *_furthest(out, lows, k, largest=False, start=start)
    )


def _ends(values: Tensor, end: Callable[..., Tensor], into: Tensor) -> None:
    """Write the largest (`end` amax) or smallest (amin) of every group of `values` [entry, row] into the first groups of `into`."""
    full = len(values) // GROUP
    if full:
        end(values[: full * GROUP].unflatten(0, (full, GROUP)), 1, out=into[:full])
    if len(values) > full * GROUP:
        into[full] = end(values[full * GROUP :], 0)


def _furthest(out: Tensor, ends: Tensor, k: int, *, largest: bool, start: int) -> tuple[Tensor, Tensor]:
    """The k largest (or smallest) of `out` [column, row] and their columns, [row, k]: from the ends of groups of groups down."""
    groups = ends.new_empty(-(-len(ends) // GROUP), ends.shape[1])
    _ends(ends, torch.amax if largest else torch.amin, groups)
    best = groups.T.topk(min(k, len(groups)), dim=1, largest=largest, sorted=False).indices
    best = _inside(ends, best, k, largest=largest)[1]
    found, at = _inside(out, best, k, largest=largest)
    return found, at + start


def _inside(values: Tensor, groups: Tensor, k: int, *, largest: bool) -> tuple[Tensor, Tensor]:
    """The k furthest of `values` [entry, row] inside the `groups` [row, some] of every row, and which entries they are."""
    places = (groups[:, :, None] * GROUP + torch.arange(GROUP, device=values.device)).flatten(1)
    read = values.T.gather(1, places.clamp_max(len(values) - 1))
    if len(values) % GROUP:
        read.masked_fill_(places >= len(values), -torch.inf if largest else torch.inf)
    found, at = read.topk(min(k, len(values)), dim=1, largest=largest)
    return found, places.gather(1, at)


def _merged(one: Extremes, other: Extremes, k: int) -> Extremes:
    """The k most extreme of two sets of columns."""
    parts = []
    for value, ids, sign in ((0, 1, 1), (2, 3, -1)):
        values = torch.cat([one[value], other[value]], 1)
        kept = (values * sign).topk(min(k, values.shape[1]), dim=1).indices
        parts += [values.gather(1, kept), torch.cat([one[ids], other[ids]], 1).gather(1, kept)]
    return Extremes(*parts)
