"""The work of a sweep: one unit for every (item of edits, clean row), with the block and the position where it first differs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from conceptlab.errors import InputError, SiteError
from conceptlab.results import Edit

Item = Edit | Sequence[Edit]
ABOVE = ("final_norm", "logits")  # sites that lie above every block


@dataclass(frozen=True, eq=False)
class Work:
    """`item`, `row`, `join` (first block that runs; the number of blocks: none does), `start` (first position) [unit]."""

    item: np.ndarray
    row: np.ndarray
    join: np.ndarray
    start: np.ndarray

    def __len__(self) -> int:
        return len(self.item)

    def select(self, index: np.ndarray) -> "Work":
        """Some units, in the given order."""
        return Work(self.item[index], self.row[index], self.join[index], self.start[index])


def as_items(edits: Sequence[Item]) -> list[tuple[Edit, ...]]:
    """Every item as a tuple of edits. Raises InputError where there is none or one is empty."""
    items = [(item,) if isinstance(item, Edit) else tuple(item) for item in edits]
    if not items:
        raise InputError("there is nothing to sweep over: the list of edits is empty")
    for number, item in enumerate(items):
        if not item or not all(isinstance(edit, Edit) for edit in item):
            raise InputError(f"item {number} of the sweep is {item!r}; give an Edit or a tuple of Edits")
    return items


def join_layer(edit: Edit, n_layers: int) -> int:
    """The first block that runs again: the edit's own, or the next one for what leaves a block."""
    if edit.site.name == "embed":
        return 0
    if edit.site.name in ABOVE or edit.site.layer is None:
        return n_layers
    return edit.site.layer + (edit.site.name == "resid_post")


def positions_of(edit: Edit, row: int, n_pos: int, given: object = None) -> tuple[int, ...]:
    """Real-token positions of an edit in one row of `n_pos` tokens. Raises SiteError where one does not exist."""
    asked = edit.positions if given is None else given
    if isinstance(asked, str):
        return tuple(range(n_pos)) if asked == "all" else (n_pos - 1,)
    ragged = len(asked) > 0 and isinstance(asked[0], (list, tuple))  # type: ignore[index, arg-type]
    listed = asked[row] if ragged else asked  # type: ignore[index]
    found = tuple(p + n_pos if p < 0 else p for p in listed)  # type: ignore[union-attr]
    if any(not 0 <= p < n_pos for p in found):
        raise SiteError(f"{edit}: row {row} has {n_pos} real tokens; positions {list(listed)} do not all exist")  # type: ignore[arg-type]
    return found


def work_of(items: list[tuple[Edit, ...]], rows: Sequence[int], n_pos: int, n_layers: int, *, causal: bool) -> Work:
    """Units of every item on the rows `rows` (all of `n_pos` tokens); without causality a change reaches every position."""
    join = np.array([min(join_layer(e, n_layers) for e in item) for item in items])
    start = np.zeros((len(items), len(rows)), dtype=np.int64)
    if causal:
        for number, item in enumerate(items):
            start[number] = _starts(item, rows, n_pos)
    index = np.repeat(np.arange(len(items)), len(rows))
    return Work(index, np.tile(np.arange(len(rows)), len(items)), join[index], start.reshape(-1))


def _starts(item: tuple[Edit, ...], rows: Sequence[int], n_pos: int) -> list[int] | int:
    if any(
        not isinstance(e.positions, str) and len(e.positions) and isinstance(e.positions[0], (list, tuple))
        for e in item
    ):
        return [min(min(positions_of(e, row, n_pos), default=n_pos) for e in item) for row in rows]
    return min(min(positions_of(e, 0, n_pos), default=n_pos) for e in item)


def in_passes(work: Work, n_pos: int, most_tokens: int) -> list[np.ndarray]:
    """Units by pass: at most `most_tokens` tokens at the top, and every pass from as many depths as there are.

    A pass whose batch grows as layers go by keeps its matrix products large at every layer.
    """
    rank = _rank_among_equals(work.row, work.start, work.join)
    order = np.lexsort((work.join, rank, work.start, work.row))
    tokens = np.cumsum(n_pos - work.start[order])
    cut = np.flatnonzero(np.diff((tokens - 1) // max(1, most_tokens))) + 1
    return [part for part in np.split(order, cut) if len(part)]


def _rank_among_equals(*keys: np.ndarray) -> np.ndarray:
    """For each unit, how many earlier ones have the same keys."""
    order = np.lexsort(keys)
    same = np.ones(len(order), dtype=bool)
    for key in keys:
        same[1:] &= key[order][1:] == key[order][:-1]
    same[:1] = False
    first = np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order)) - first
    return rank
